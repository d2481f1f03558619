"""A link that restores a view: the words of the command line in the page's address, checked as anyone's input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from urllib.parse import urlencode, urlsplit, urlunsplit

import streamlit as st
from history import Ask, history, restore
from panels import place
from reading import costs

from lampq_engine.allocate import options
from lampq_engine.commands.request import menu_of, pin_of, tie_of
from lampq_engine.errors import InputError
from lampq_engine.recipe import METRICS, AllocationSpec, Budgets, Menu, default_menus
from lampq_engine.store import Study
from lampq_engine.types import Kind

BUDGETS = tuple(Budgets.__dataclass_fields__)
POSITION = ("metric", *BUDGETS, "menu", "pin", "tie", "free")
COMPARED = {"compare": "compare-trial", "against": "compare-against"}  # word of the link: key of the session
LONGEST = 20_000  # characters of all words together


def position_words(ask: Ask) -> Iterator[tuple[str, str]]:
    """A position of the Allocation page in the words of the command line."""
    yield "metric", ask.metric
    for name, value in ask.spec.budgets.given().items():
        yield name, repr(value)
    usual = default_menus()
    for kind, menu in ask.spec.menus.items():
        if (menu.weights, menu.activations) != (usual[kind].weights, usual[kind].activations):
            yield "menu", f"{kind}={_menu(menu)}"
    yield from (("pin", f"{name}={bits}") for name, bits in ask.spec.pins.items())
    yield from (("tie", tie if isinstance(tie, str) else "=".join(tie)) for tie in ask.spec.ties)
    if not ask.tied:
        yield "free", "1"


def _menu(menu: Menu) -> str:
    weights, activations = (",".join(map(str, side)) for side in (menu.weights, menu.activations))
    return weights if weights == activations else f"{weights}/{activations}"


def link_to(study: Study, page: str, address: str) -> str:
    """The address of a page of this dashboard, with everything that the session chose there."""
    words: list[tuple[str, str]] = [("study", study.name)]
    past = history(study)
    if past is not None:
        words += position_words(past.now)
    if layer := st.session_state.get(place(study)):
        words.append(("layer", str(layer)))
    for word, key in COMPARED.items():
        if value := st.session_state.get(key):
            words.append((word, str(value)))
    words += [("with", name) for name in st.session_state.get("compare-studies", [])]
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc, f"/{page}" if page else "/", urlencode(words), ""))


def read_position(words: Mapping[str, Sequence[str]], start: Ask) -> Ask:
    """The position that a link asks for; `InputError` names the word that cannot be understood."""
    if sum(len(value) for values in words.values() for value in values) > LONGEST:
        raise InputError("The link is too long", expected=f"at most {LONGEST} characters")
    metric = words.get("metric", [start.metric])[-1]
    if metric not in METRICS:
        raise InputError(f"{metric!r} is not a metric", expected="one of " + ", ".join(METRICS))
    budgets = Budgets(**{name: _number(name, words[name][-1]) for name in BUDGETS if name in words})
    menus: dict[Kind, Menu] = default_menus() | dict(map(menu_of, words.get("menu", [])))
    if words.get("free", [""])[-1] == "1":
        menus = {kind: replace(menu, tied=False) for kind, menu in menus.items()}
    pins = dict(map(pin_of, words.get("pin", [])))
    ties = tuple(map(tie_of, words.get("tie", [])))
    return Ask(metric, AllocationSpec(budgets=budgets, menus=menus, pins=pins, ties=ties))


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{name}={text!r} is not a number", expected="a positive number such as 2.5") from error


def follow_link(study: Study) -> None:
    """Restore what the page's address asks for, once; what cannot be understood is one sentence and changes nothing."""
    words = {
        name: st.query_params.get_all(name)
        for name in (*POSITION, *COMPARED, "layer", "with")
        if name in st.query_params
    }
    asked = repr(sorted(words.items()))
    if not words or st.session_state.get("followed") == (study.name, asked):
        return
    st.session_state["followed"] = (study.name, asked)
    for take in (_take_position, _take_compared):
        _said(take, study, words)


def _said(take: Callable[[Study, Mapping[str, Sequence[str]]], None], study: Study, words: dict) -> None:
    try:
        take(study, words)
    except InputError as error:
        st.toast(f"The link could not be followed: {error}", icon=":material/link_off:", duration="long")


def _take_position(study: Study, words: Mapping[str, Sequence[str]]) -> None:
    if not set(words) & set(POSITION):
        return
    model = costs(study)
    if model is None:
        raise InputError("Its study is not analysed yet", todo="Follow it again when the analysis has ended")
    past = history(study)
    ask = read_position(words, past.now if past else Ask("lampq"))
    if ask.metric not in study.metrics:
        raise InputError(f"The study has no sensitivity {ask.metric!r}", expected="one of " + ", ".join(study.metrics))
    options(model.layers, ask.spec)
    restore(study, ask)


def _take_compared(study: Study, words: Mapping[str, Sequence[str]]) -> None:
    for word, key in COMPARED.items():
        if word in words:
            st.session_state[key] = words[word][-1]  # a trial that is not there is replaced on the page
    if "layer" in words:
        st.session_state[place(study)] = words["layer"][-1]  # so is a layer
    if "with" in words:
        st.session_state["compare-studies"] = list(words["with"])
