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
        command: options of `zeropp simulate` that end in this choice.
        choice: the schedule that it must name.
    """

    text: str
    command: str
    choice: str


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
        "As the baseline. From B > P on 1f1b is as fast and holds less.",
        (Row("gpipe", "gpipe", _FUSED, "[Zero Bubble]", Formula("B"), gathers=_VISITS),),
    ),
    Entry(
        "1f1b",
        "A micro-batch's backward runs as soon as it can, in turn with forwards, so that rank p "
        "holds P-p micro-batches and no more.",
        "[PipeDream-Flush], figure 2",
        "With V=1 where the backward cannot be split; else zb-h1 is faster in the same peak.",
        (Row("1f1b", "1f1b", _FUSED, "[Zero Bubble], table 2", Formula("P"), gathers=_VISITS),),
    ),
    Entry(
        "interleaved-1f1b",
        "1F1B with V stages per rank, which take turns every P micro-batches: the pipeline fills "
        "in a V-th of the time.",
        "[Megatron-LM], section 2.2",
        "With V > 1 where the backward cannot be split and parameters stay on the rank. It sends V "
        "times the messages of 1f1b and changes stage every P micro-batches.",
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
        "With sharded parameters on a slow link, where the whole batch's activations fit: no other "
        "schedule with V > 1 gathers less. Best with B near P.",
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
        "With V=1: it never has to change stage, and a third of 1F1B's bubble is left at equal "
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
        "Only where ranks do not wait for each other at the step's end. Where they do (clipping by "
        "the global norm is enough), zb-h1 is as fast at equal times in about half the memory.",
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
        "With any V, exactly P micro-batches of memory and times of F, B and W that differ: its "
        "bubble is the same formula at all times.",
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
        "With V=2, both stages' parameters on the rank and T_F near T_B: as fast as zeropp, seam "
        "carry, in P micro-batches. With one resident stage it gathers most often of all.",
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
        "Where P micro-batches do not fit.",
        (
            Row(
                "v-half",
                "v-half",
                Formula("(P-1)*(T_F+T_B+T_W)/2"),
                "[Controllable Memory]; P even, odd: `T_F/2` less",
                Formula("floor((P+2)/2)"),
                times=(EQUAL,),
            ),
        ),
    ),
    Entry(
        "v-min",
        "The vee on which activations live shortest: a third of 1F1B's.",
        "[Controllable Memory]",
        "Where nothing else fits, and times are near equal: at other times its bubble grows with "
        "B.",
        (
            Row(
                "v-min",
                "v-min",
                Formula("2*(P-1)*(T_F+T_B+T_W)/3-T_F/2"),
                "[Controllable Memory]: two thirds of 1F1B's; the rest derived here",
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
        "Where stages communicate inside (experts) and a pair really overlaps. Here F runs before "
        "BW in one stream, hence a bubble that differs from the README's, "
        "`(PP/2-1)(F&B+B-3W)` for indivisible pairs; then zb-v is as fast and holds less.",
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
        "With sharded parameters and room for one gathered stage: U trades gathers and bubble "
        "(larger is better) against memory. From U=2P-1 on units follow without a bubble.",
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
        "The default. It goes by measured times, transfers included, and reaches the floor in "
        "interleaved 1F1B's memory. Have two resident stages, or none sharded: it mixes units, "
        "and with one resident stage middle ranks gather more often than drained ones.",
        (
            Row(
                "zeropp, carry, U=P",
                "zeropp",
                Formula("(P-1)*T_F/V"),
                "derived here: the floor",
                Formula("P+(P-1)/V"),
                seam="carry",
                unit=1,
                times=(EQUAL, SHORT_W),
            ),
        ),
    ),
)

_ALL = "--compare all --pp 8 --chunks 2 --microbatches 32"

ADVICE = (
    Advice(
        "**Memory below P micro-batches** (PV slots): v-half, down to `floor((P+2)/2)`; below "
        "that v-min, down to `floor((P+4)/3)`; below that nothing.",
        f"{_ALL} --limit 5",
        "v-half",
    ),
    Advice(
        "**P micro-batches, parameters on the rank**: zb-v where T_F is near T_B; gis where V must "
        "be above 2.",
        f"{_ALL} --limit 8",
        "zb-v",
    ),
    Advice(
        "**P+(P-1)/V micro-batches, times that differ or transfers that take time**: zeropp, seam "
        "carry.",
        f"{_ALL} --limit 11.5 --p2p 0.05",
        "zeropp",
    ),
    Advice(
        "**Sharded parameters, one resident stage**: zeropp, seam drain, with the largest U that "
        "fits; breadth-first where the whole batch fits and gathers cost more than its bubble.",
        "--compare zeropp,breadth-first,interleaved-1f1b,gis --pp 8 --chunks 4 --microbatches 32 "
        "--seam drain --unit-size 16 --shard unit --max-resident 1 --gather 0.5 --limit 16",
        "zeropp",
    ),
    Advice(
        "**V=1** (all of a rank's layers gathered at once, never twice): zb-h1, or 1f1b where the "
        "backward cannot be split; zb-h2 only without a barrier at the step's end.",
        "--compare gpipe,1f1b,zb-h1,zb-h2 --pp 8 --chunks 1 --microbatches 32",
        "zb-h1",
    ),
)
