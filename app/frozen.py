"""Spare every run of a page a walk through the libraries.

Streamlit collects garbage after each run, also after each step of a drag. With plotly, pandas and OR-tools in memory
that costs 60 ms, for objects that live as long as the process; frozen once, they are not looked at again.
"""

import gc

import panels  # noqa: F401
import solving  # noqa: F401
import watching  # noqa: F401

from lampq_engine import figures  # noqa: F401

gc.collect()
gc.freeze()
