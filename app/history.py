"""What a session asks of the solver in one study, with undo: one value that every widget of the page shows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import streamlit as st

from lampq_engine.recipe import AllocationSpec
from lampq_engine.store import Study

DEPTH = 200  # positions that undo remembers


@dataclass(frozen=True)
class Ask:
    """A metric and what the solver may do: budgets, menus, pins, ties."""

    metric: str
    spec: AllocationSpec = field(default_factory=AllocationSpec)

    @property
    def tied(self) -> bool:
        """Whether weights and activations of a layer take the same width."""
        return all(menu.tied for menu in self.spec.menus.values())


@dataclass(frozen=True)
class History:
    """The position in hand, the one it was dragged from, and those before and after it.

    `shown` is what the tables of the page were filled with; they are filled anew when `revision` changes.
    """

    now: Ask
    settled: Ask
    shown: Ask
    past: tuple[Ask, ...] = ()
    future: tuple[Ask, ...] = ()
    revision: int = 0

    @staticmethod
    def of(ask: Ask) -> History:
        return History(ask, ask, ask)

    def moved(self, ask: Ask) -> History:
        """On the way: a drag that has not ended."""
        return replace(self, now=ask)

    def settle(self) -> History:
        """The drag has ended: where it began can be undone to."""
        if self.now == self.settled:
            return self
        return replace(self, settled=self.now, past=(*self.past, self.settled)[-DEPTH:], future=())

    def changed(self, ask: Ask, *, redraw: bool = False) -> History:
        """A step that ends at once; with `redraw` the tables did not make it and must show it."""
        after = self.moved(ask).settle()
        return after.redrawn() if redraw else after

    def redrawn(self) -> History:
        return replace(self, shown=self.now, revision=self.revision + 1)

    def undone(self) -> History:
        """One position back; the same where there is none."""
        here = self.settle()
        if not here.past:
            return self
        *past, last = here.past
        after = replace(here, now=last, settled=last, past=tuple(past), future=(here.now, *here.future))
        return after.redrawn()

    def redone(self) -> History:
        """One position forward again; the same where there is none."""
        if not self.future or self.now != self.settled:
            return self
        first, *rest = self.future
        after = replace(self, now=first, settled=first, past=(*self.past, self.settled), future=tuple(rest))
        return after.redrawn()

    @property
    def previous(self) -> Ask | None:
        """The last position but this one."""
        return self.past[-1] if self.past else None


def history(study: Study) -> History | None:
    """What this session did in a study so far; None before it chose anything."""
    return st.session_state.get(f"history-{study.name}")


def keep(study: Study, value: History) -> None:
    st.session_state[f"history-{study.name}"] = value


def restore(study: Study, ask: Ask) -> None:
    """Go to a position from elsewhere: a link, a recipe, a trial; it can be undone."""
    before = history(study)
    keep(study, before.changed(ask, redraw=True) if before else History.of(ask))
