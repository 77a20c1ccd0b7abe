"""A question as plain data, its answer as plain data; the same in a server and in a browser.

`do` says what: catalogue, simulate, explain, text, turn, order, save or plan. What is wrong with a
question is answered by the line that the command line says, and the field that it is about.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from zeropp.explore.critical import Chains, chains_of
from zeropp.explore.edit import without_gaps
from zeropp.explore.explain import explained
from zeropp.explore.panel import look, panel_of, spoilt
from zeropp.explore.wanted import Wanted, WantedPlan
from zeropp.generate import GENERATORS
from zeropp.ir import Program, format_program, format_schedule
from zeropp.ir.model import SIZES
from zeropp.ir.toml_file import make, table_of
from zeropp.planner import best_plan
from zeropp.planner.hardware import GPUS
from zeropp.planner.plan_file import format_plan
from zeropp.planner.told import as_dict, rows_of
from zeropp.program import Policy
from zeropp.refusal import one_line
from zeropp.scenario import OF_PROGRAMS, OF_SCHEDULES
from zeropp.show import draw_text
from zeropp.simulate import Report, simulate

Data = dict[str, Any]

_ALSO = {  # words of refusals that are another field's on the page
    "pp_size": "pp",
    "num_chunks": "chunks",
    "num_microbatches": "microbatches",
    "unknown": "schedule",
    "forward": "costs",
}


def answer_json(question: str) -> str:
    """`answer` of a text and as a text."""
    try:
        asked = json.loads(question)
    except ValueError:
        return json.dumps({"refused": "the question is not JSON", "field": None})
    return json.dumps(answer(asked))


def answer(question: Any) -> Data:
    """The answer; `refused` and `field` where there is something wrong."""
    try:
        if not isinstance(question, dict) or question.get("do") not in _ANSWERS:
            raise ValueError(f"do must be one of {', '.join(_ANSWERS)}")
        return _ANSWERS[question["do"]](question)
    except ValueError as error:
        return _refused(error)


def _refused(error: ValueError) -> Data:
    line = one_line(str(error))
    known = {field.name for kind in (Wanted, WantedPlan) for field in fields(kind)}
    words = (_ALSO.get(word, word) for word in re.findall(r"[a-z][a-z0-9_]*", line))
    return {"refused": line, "field": next((word for word in words if word in known), None)}


def _wanted(question: Mapping[str, Any]) -> Wanted:
    return make(Wanted, _table(question, "wanted"))


def _table(question: Mapping[str, Any], name: str) -> Data:
    table = question.get(name, {})
    if not isinstance(table, dict):
        raise ValueError(f"{name} must be an object")
    return table


def _place(question: Mapping[str, Any], name: str) -> int:
    value = question.get(name)
    if type(value) is not int:
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    return value


@lru_cache(maxsize=8)
def _report(wanted: Wanted) -> tuple[Report, Chains]:
    program = wanted.program()
    report = simulate(program, wanted.costs_for(program.placement))
    return report, chains_of(report)


def _simulate(question: Mapping[str, Any]) -> Data:
    """The scenario, or what an edit has spoilt in it, and its peers."""
    wanted = _wanted(question)
    if violations := wanted.violations():
        schedule = wanted.subject()
        assert not isinstance(schedule, Program)
        main = spoilt(without_gaps(schedule, wanted.costs_for(schedule.placement)), violations)
    else:
        main = panel_of(*_report(wanted), wanted.fits(_report(wanted)[0]))
    names = [] if wanted.compare is None else wanted.compare.split(",")
    return {"main": main, "peers": [_peer(wanted, name) for name in names]}


def _peer(wanted: Wanted, name: str) -> Data:
    try:
        report, chains = _report(wanted.named(name))
    except ValueError as error:
        return {"name": name, **_refused(error)}
    return panel_of(report, chains, wanted.fits(report))


def _explain(question: Mapping[str, Any]) -> Data:
    wanted = _wanted(question)
    if peer := question.get("peer"):
        wanted = wanted.named(str(peer))
    report, chains = _report(wanted)
    return explained(report, chains, _place(question, "rank"), _place(question, "at"))


def _text(question: Mapping[str, Any]) -> Data:
    """The timelines as characters."""
    wanted = _wanted(question)
    names = [] if wanted.compare is None else wanted.compare.split(",")
    shown = [wanted, *map(wanted.named, names)]
    return {"text": "\n".join(draw_text(_report(one)[0].timeline) for one in shown)}


def _turn(question: Mapping[str, Any]) -> Data:
    """The fields that another schedule has, of the same."""
    turned = _wanted(question).named(str(question.get("schedule")))
    names = ("schedule", "chunks", "unit_size", "seam", "slots", "gather", "reduce")
    return {"wanted": {name: getattr(turned, name) for name in names}}


def _save(question: Mapping[str, Any]) -> Data:
    """The text of a program file."""
    return {"name": "program.txt", "text": format_program(_wanted(question).saved())}


def _order(question: Mapping[str, Any]) -> Data:
    """The text of a schedule file: the order alone."""
    schedule = _wanted(question).program().schedule
    return {"name": f"{schedule.name}.txt", "text": format_schedule(schedule)}


def _plan(question: Mapping[str, Any]) -> Data:
    found = best_plan(make(WantedPlan, _table(question, "asked")).problem())
    return {"rows": rows_of(found), "found": as_dict(found), "text": format_plan(found.saved)}


def _catalogue(question: Mapping[str, Any]) -> Data:
    """What there is to choose from, and how it looks."""
    schedules = [
        {
            "name": made.name,
            "summary": made.summary,
            "options": sorted(made.options),
            "shape": made.shape,
            "fused": made.fused,
        }
        for made in GENERATORS.values()
    ]
    return {
        "schedules": schedules,
        "policies": list(Policy),
        "models": list(SIZES),
        "gpus": list(GPUS),
        "defaults": table_of(Wanted()),
        "of_schedules": sorted(OF_SCHEDULES),
        "of_programs": sorted(OF_PROGRAMS),
        **look(),
    }


_ANSWERS: Mapping[str, Callable[[Mapping[str, Any]], Data]] = MappingProxyType(
    {
        "catalogue": _catalogue,
        "simulate": _simulate,
        "explain": _explain,
        "text": _text,
        "turn": _turn,
        "save": _save,
        "order": _order,
        "plan": _plan,
    }
)
