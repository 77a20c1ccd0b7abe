"""What the page says about each schedule, in an order that teaches, and what it advises."""

from dataclasses import dataclass

from schedules_figures import EQUAL, SHORT_W, Formula, Row


@dataclass(frozen=True)
class Entry:
    """One schedule's section.

    Attributes:
        slug: the picture's file name, without suffix.
        what: one sentence.
        source: with a link.
        right: when to choose it.
        rows: its lines in the tables; the picture shows the first.
    """

    slug: str
    what: str
    source: str
    right: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Advice:
    """One line of guidance.

    Attributes:
        text: Markdown.
        runs: options of `zeropp simulate`, and the schedule that it must then recommend.
    """

    text: str
    runs: tuple[tuple[str, str], ...]


LINKS = {
    "GPipe": "https://arxiv.org/abs/1811.06965",
    "PipeDream-Flush": "https://arxiv.org/abs/2006.09503",
    "Megatron-LM": "https://arxiv.org/abs/2104.04473",
    "Breadth-first": "https://arxiv.org/abs/2211.05953",
    "Zero Bubble": "https://arxiv.org/abs/2401.10241",
    "Controllable Memory": "https://arxiv.org/abs/2405.15362",
    "PipeOffload": "https://arxiv.org/abs/2503.01328",
    "DualPipe": "https://github.com/deepseek-ai/DualPipe",
    "ZeroPP": "https://arxiv.org/abs/2402.03791",
}

_FUSED = Formula("(P-1)*(T_F+T_B+T_W)")
_FUSED_INTERLEAVED = Formula("(P-1)*(T_F+T_B+T_W)/V")
_DRAINED = Formula("(P-1+(B/U-1)*max(0,2*P-1-U))*T_F/V")
_DRAINED_PEAK = Formula("min(U,((V-1)*U+2*P-1)/V)")
_VISITS = Formula("1+(2*V-2)*B/U")

ENTRIES = (
    Entry(
        "gpipe",
        "All forwards, then all backwards.",
        "[GPipe], figure 2c",
        "as the baseline. 1f1b is as fast and holds less wherever B is above P.",
        (Row("gpipe", "gpipe", _FUSED, "[Zero Bubble], text", Formula("B"), gathers=_VISITS),),
    ),
    Entry(
        "1f1b",
        "A micro-batch's backward runs as soon as it can, in turn with forwards, so that rank p "
        "holds P-p micro-batches and no more.",
        "[PipeDream-Flush], figure 2",
        "with V=1 and a backward that cannot be split. Where it can, zb-h1 is faster in the same "
        "peak.",
        (Row("1f1b", "1f1b", _FUSED, "[Zero Bubble], table 2", Formula("P"), gathers=_VISITS),),
    ),
    Entry(
        "interleaved-1f1b",
        "1F1B with V stages per rank, which take turns every P micro-batches: the pipeline fills "
        "in a V-th of the time.",
        "[Megatron-LM], section 2.2",
        "with V above 1, a backward that cannot be split, and parameters that stay on the rank. It "
        "sends V times the messages of 1f1b, and often changes stage from one action to the next.",
        (
            Row(
                "interleaved-1f1b",
                "interleaved-1f1b",
                _FUSED_INTERLEAVED,
                "[PipeOffload], table 1",
                Formula("P+(P-1)/V"),
            ),
        ),
    ),
    Entry(
        "breadth-first",
        "Every stage runs the whole batch before its rank turns to the next stage.",
        "[Breadth-first], figure 4",
        "with sharded parameters on a slow link, where the whole batch's activations fit: with one "
        "resident stage nothing with the same V gathers less. Best with B near P.",
        (
            Row(
                "breadth-first",
                "breadth-first",
                _FUSED_INTERLEAVED,
                "derived here",
                Formula("B"),
                gathers=_VISITS,
            ),
        ),
    ),
    Entry(
        "zb-h1",
        "1F1B with the backward split into B and W: B travels on at once, and W waits for the end, "
        "where 1F1B idles.",
        "[Zero Bubble], section 2",
        "with V=1: parameters are gathered once, and a third of 1F1B's bubble is left at equal "
        "times.",
        (
            Row(
                "zb-h1",
                "zb-h1",
                Formula("(P-1)*(T_F+T_B-T_W)"),
                "[Zero Bubble], table 2",
                Formula("P"),
                gathers=_VISITS,
            ),
        ),
    ),
    Entry(
        "zb-h2",
        "Twice the warm-up of zb-h1, so that no rank idles between its own first and last action.",
        "[Zero Bubble], section 2",
        "with V=1, memory for it, and either ranks that do not wait for each other at the step's "
        "end or a short W. At equal times with such a wait (clipping by the global norm is one), "
        "zb-h1 is as fast in about half the memory.",
        (
            Row(
                "zb-h2",
                "zb-h2",
                Formula("(P-1)*(T_F+T_B-2*T_W)"),
                "[Zero Bubble], table 2",
                Formula("2*P-1"),
                own_span=True,
                gathers=_VISITS,
            ),
        ),
    ),
    Entry(
        "gis",
        "Interleaved 1F1B with split backward: B comes back sooner than a fused backward, so half "
        "the head start is enough.",
        "[PipeOffload], section 3.1",
        "with V above 2, P micro-batches' memory and B a multiple of P; its bubble keeps its "
        "formula whatever the times of F, B and W.",
        (
            Row(
                "gis",
                "gis",
                Formula("(P-1)*(T_F+T_B)/V"),
                "[PipeOffload], table 1",
                Formula("P"),
            ),
        ),
    ),
    Entry(
        "zb-v",
        "Two stages per rank, there and back, so that the last stage is on rank 0 and W fills "
        "every gap.",
        "[Zero Bubble], section 6",
        "with V=2, both stages' parameters on the rank and T_F near T_B: as fast as zeropp, carry, "
        "in P micro-batches' memory. Not with one resident stage: it changes stage all the time.",
        (
            Row(
                "zb-v",
                "zb-v",
                Formula("(P-1)*(T_F+T_B-2*T_W)/2"),
                "[Zero Bubble]: 0 at equal times",
                Formula("P"),
                own_span=True,
                times=(EQUAL, SHORT_W),
            ),
        ),
    ),
    Entry(
        "v-half",
        "A vee whose micro-batches travel twice as fast down as up: half of 1F1B's activations, "
        "half of its bubble.",
        "[Controllable Memory]",
        "where P micro-batches do not fit, and both stages' parameters stay on the rank.",
        (
            Row(
                "v-half",
                "v-half",
                Formula("(P-1)*(T_F+T_B+T_W)/2"),
                "[Controllable Memory], P even",
                Formula("floor((P+2)/2)"),
                times=(EQUAL,),
            ),
        ),
    ),
    Entry(
        "v-min",
        "The vee on which activations live shortest: a third of 1F1B's.",
        "[Controllable Memory]",
        "where v-half does not fit either and times are near equal: at others its bubble grows "
        "with B.",
        (
            Row(
                "v-min",
                "v-min",
                Formula("2*(P-1)*(T_F+T_B+T_W)/3-T_F/2"),
                "[Controllable Memory], two thirds of 1F1B's; `T_F/2` derived here",
                Formula("floor((P+4)/3)"),
                times=(EQUAL,),
            ),
        ),
    ),
    Entry(
        "dualpipe-v",
        "A vee that pairs each forward with a fused backward of its other stage, so that one's "
        "communication can hide behind the other's computation.",
        "[DualPipe], README",
        "with stages that communicate inside, as experts do, so that pairs really overlap. Here F "
        "runs before BW in one stream, and the bubble is not the README's `(PP/2-1)(F&B+B-3W)` for "
        "indivisible pairs; without overlap zb-v is as fast at equal times and holds less.",
        (
            Row(
                "dualpipe-v",
                "dualpipe-v",
                Formula("(P-1)*(T_F+T_B-T_W)/2"),
                "derived here",
                Formula("P+1/2"),
                times=(EQUAL, SHORT_W),
            ),
        ),
    ),
    Entry(
        "zeropp-drain",
        "Units of U micro-batches, each run stage by stage with W staggered into the gaps, and "
        "drained before the next unit starts.",
        "[ZeroPP]; its bubble and memory are derived here",
        "with sharded parameters and room for one gathered stage: a larger U means fewer gathers, "
        "less bubble (none between units from U=2P-1 on) and more memory.",
        tuple(
            Row(
                f"zeropp, drain, U={label}",
                "zeropp",
                _DRAINED,
                "derived here",
                _DRAINED_PEAK,
                seam="drain",
                unit=unit,
                times=(EQUAL,),
                gathers=_VISITS,
            )
            for unit, label in ((1, "P"), (2, "2P"))
        ),
    ),
    Entry(
        "zeropp-carry",
        "The same order of F and of B, but units follow back to back: W may cross into the next "
        "unit, and an event-driven pass over the costs decides what runs next within `slots`.",
        "[ZeroPP], with carried W's derived here",
        "as the default. It goes by the times it is given, transfers included, and reaches the "
        "floor in interleaved 1F1B's memory. It mixes units, so with one resident stage most ranks "
        "gather more often than in the drained order; with two they do not.",
        (
            Row(
                "zeropp, carry, U=P",
                "zeropp",
                Formula("(P-1)*T_F/V"),
                "derived here: the floor",
                Formula("P+(P-1)/V"),
                seam="carry",
                unit=1,
            ),
        ),
    ),
)

_TWO_CHUNKS = "--pp 8 --chunks 2 --microbatches 32"
_FOUR_CHUNKS = "--pp 8 --chunks 4 --microbatches 32"
_ONE_RESIDENT = "--shard unit --max-resident 1 --gather 0.5"

ADVICE = (
    Advice(
        "**Memory below P micro-batches** (PV slots): v-half, and v-min where that does not fit. "
        "From P-2 on, zeropp made for the limit; it alone goes below v-min, slowly.",
        (
            (f"--compare all {_TWO_CHUNKS} --limit 5", "v-half"),
            (f"--compare all {_TWO_CHUNKS} --limit 4", "v-min"),
            (f"--compare all {_TWO_CHUNKS} --limit 6", "zeropp"),
            (f"--compare all {_TWO_CHUNKS} --limit 3", "zeropp"),
        ),
    ),
    Advice(
        "**P micro-batches, parameters on the rank**: zeropp with V of 4 or more; with V=2 it "
        "equals zb-v at equal times, and zb-v is the better where W is short.",
        (
            (f"--compare all {_FOUR_CHUNKS} --limit 8", "zeropp"),
            (f"--compare zb-v,zeropp {_TWO_CHUNKS} --limit 8 --costs 1,1,0.7", "zb-v"),
        ),
    ),
    Advice(
        "**P+(P-1)/V micro-batches, and transfers that take time or F and B that differ**: zeropp, "
        "carry.",
        (
            (f"--compare all {_TWO_CHUNKS} --limit 11.5 --p2p 0.05", "zeropp"),
            (f"--compare all {_TWO_CHUNKS} --limit 11.5 --costs 1,1.3,0.9", "zeropp"),
        ),
    ),
    Advice(
        "**Sharded parameters, one resident stage**: zeropp, drain, with the largest U that fits; "
        "breadth-first where the whole batch fits and gathers cost more than its bubble.",
        (
            (
                f"--compare zeropp,gis,interleaved-1f1b {_FOUR_CHUNKS} --seam drain --unit-size 16 "
                f"{_ONE_RESIDENT} --limit 16",
                "zeropp",
            ),
            (
                f"--compare zeropp,breadth-first {_FOUR_CHUNKS} --seam drain --unit-size 8 "
                f"{_ONE_RESIDENT}",
                "breadth-first",
            ),
        ),
    ),
    Advice(
        "**V=1** (a rank's layers are one stage, gathered once and all at once): zb-h1, or 1f1b "
        "where the backward cannot be split; zb-h2 or zeropp for a short W and twice the memory.",
        (
            ("--compare 1f1b,zb-h1,zb-h2,zeropp --pp 8 --microbatches 32", "zb-h1"),
            ("--compare 1f1b,zb-h1,zb-h2 --pp 8 --microbatches 32 --costs 1,1,0.7", "zb-h2"),
        ),
    ),
)
