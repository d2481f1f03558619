"""A slide's headline in large type, which listens to the arrow keys: the presentation has no other controls."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

_HTML = """
<section>
  <div class="where" role="group" aria-label="Slides">
    <button class="back" aria-label="Previous slide">←</button>
    <span class="count" aria-live="polite"></span>
    <button class="on" aria-label="Next slide">→</button>
  </div>
  <h1 class="title"></h1>
  <p class="lead"></p>
</section>
"""

_CSS = """
section { font-family: var(--st-font); color: var(--st-text-color); min-height: 9.5rem; }
.title { font-size: clamp(2.4rem, 3.4vw, 4rem); line-height: 1.15; margin: 0; font-weight: 700; }
.lead { font-size: clamp(1.4rem, 1.9vw, 2.3rem); line-height: 1.35; margin: 0.4rem 0 0; opacity: 0.85; }
.where { float: right; font-size: 1.1rem; opacity: 0.6; font-variant-numeric: tabular-nums; }
button { all: unset; cursor: pointer; padding: 0 0.5rem; }
button:focus-visible { outline: 2px solid var(--st-primary-color); border-radius: 4px; }
"""

_JS = """
const heard = new WeakMap();
const STEPS = { ArrowRight: 1, PageDown: 1, " ": 1, ArrowLeft: -1, PageUp: -1, Home: -99, End: 99 };

export default function ({ data, parentElement, setTriggerValue }) {
  const find = (name) => parentElement.querySelector(name);
  find(".title").textContent = data.title;
  find(".lead").textContent = data.lead;
  find(".count").textContent = `${data.number} / ${data.count}`;
  heard.get(parentElement)?.abort();
  const ear = new AbortController();
  heard.set(parentElement, ear);
  const go = (step) => setTriggerValue("step", step);
  find(".back").onclick = () => go(-1);
  find(".on").onclick = () => go(1);
  document.addEventListener("keydown", (event) => {
    const busy = event.target.closest?.("input, textarea, select, [role=dialog], [contenteditable=true]");
    if (busy || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === " " && event.target.closest?.("button, a")) return;
    if (event.key === "Escape") { event.preventDefault(); setTriggerValue("leave", 1); }
    if (!(event.key in STEPS)) return;
    event.preventDefault();
    go(STEPS[event.key]);
  }, { signal: ear.signal });
  return () => ear.abort();
}
"""

_COMPONENT = st.components.v2.component("lampq_slide", html=_HTML, css=_CSS, js=_JS)


def headline(
    title: str, lead: str, *, number: int, count: int, on_step: Callable[[int], None], on_leave: Callable[[], None]
) -> None:
    """A slide's title and sentence; arrow keys, space, page keys, Home and End step, Escape leaves."""
    _COMPONENT(
        key="slide",
        data={"title": title, "lead": lead, "number": number, "count": count},
        on_step_change=lambda: _told("step", on_step),
        on_leave_change=lambda: _told("leave", lambda _: on_leave()),
    )


def _told(name: str, act: Callable[[int], None]) -> None:
    value = getattr(st.session_state["slide"], name)
    if value is not None:
        act(int(value))
