"""Imported first by the process from which ranks are forked: it loads the rest faster."""

from zeropp.ir.collector import search_seldom

search_seldom()
