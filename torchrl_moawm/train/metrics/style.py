"""The colours, sizes and legends that all pictures share.

The colours are those of Okabe and Ito, which colour-blind people tell apart. A picture is as wide
as a README, about 850 pixels, where its smallest letters are 11 pixels high.
"""

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from matplotlib.transforms import ScaledTranslation

SIZES: Any = {
    "font.size": 8.5,
    "legend.fontsize": 8.5,
    "figure.titlesize": 10.5,
    "axes.titlesize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "savefig.dpi": 150,
}
styled = rc_context(SIZES)
"""Decorates what draws; whoever imports this keeps settings of their own."""
WIDTH = 8.5
"""Inches of a picture's width."""
FRAMES = "frames (team steps)"
RETURN = "return per episode,\nmean over agents"
NATS = "nats per\npredicted agent"


class Look(NamedTuple):
    """Colour and line of a curve."""

    color: str
    linestyle: str = "-"


BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#7F7F7F"
COLOURS = (VERMILLION, BLUE, GREEN, ORANGE, PURPLE, SKY, GREY, BLACK)
LOOKS = {
    "mappo_oracle": Look(BLACK),
    "type_oracle": Look(BLACK),
    "moawm": Look(VERMILLION),
    "moawm_recurrent": Look(VERMILLION, "-."),
    "liam": Look(GREEN, "-."),
    "mappo": Look(BLUE),
    "nam": Look(BLUE),
    "nam_recurrent": Look(SKY),
    "moawm_zero_latent": Look(ORANGE, "--"),
    "moawm_recurrent_own": Look(ORANGE, "--"),
    "moawm_no_teacher": Look(PURPLE, "--"),
    "moawm_recurrent_no_teacher": Look(PURPLE, "--"),
    "moawm_frozen_encoder": Look(GREY, "--"),
    "moawm_recurrent_frozen": Look(GREY, "--"),
    "moawm_imagined": Look(VERMILLION, ":"),
    "mappo_more_steps": Look(SKY, "-."),
    "mappo_permuted": Look(GREEN, "--"),
    "moawm_taught": Look(VERMILLION),
    "liam_trained": Look(GREEN),
    "moawm_taught_not_acting": Look(ORANGE, "-."),
    "moawm_taught_no_kl": Look(BLUE, "-."),
    "moawm_taught_gradient": Look(PURPLE, "-."),
    "moawm_guided": Look(BLUE, "--"),
    "poam": Look(ORANGE, ":"),
    "meliba": Look(PURPLE),
    "moawm_teacher_first": Look(ORANGE, "-"),
    "moawm_detached": Look(GREEN, ":"),
    "moawm_gradient": Look(BLUE, "-."),
    "moawm_taught_plain_critic": Look(GREY, "-."),
    "moawm_taught_predicting": Look(SKY, "--"),
    "moawm_oracle": Look(BLACK, "-."),
    "moawm_known_rewards": Look(PURPLE, ":"),
}
"""How an agent is drawn in every picture; of two with one colour no picture has both."""
BASELINES = {
    "marginal": Look(GREY, "--"),
    "repeat": Look(SKY, "-."),
    "oracle": Look(BLACK, ":"),
    "chance": Look(BLACK, ":"),
}
"""How that is drawn with which an agent or a model is compared."""


def look(name: str) -> Look:
    """How an agent is drawn; one that is not in the table gets a colour by its name."""
    return LOOKS.get(name) or Look(COLOURS[zlib.crc32(name.encode()) % len(COLOURS)], "-.")


def cycle(first: str, n: int) -> list[Look]:
    """Looks for some curves of one picture, of which the first has the given colour."""
    colours = [first, *(colour for colour in COLOURS if colour != first)]
    lines = ("-", "--", ":", "-.")
    return [Look(colours[k % 8], lines[k // 8 % 4]) for k in range(n)]


def along_frames(axis: Any, last: float) -> None:
    """The axis of frames, from the beginning of a run to its end."""
    axis.set_xlim(0, last)
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))


def legend_under(axis: Any) -> None:
    """The legend of one panel, under the name of its horizontal axis."""
    under = ScaledTranslation(0, -0.36, axis.figure.dpi_scale_trans)
    columns = 1 if max(len(text) for text in axis.get_legend_handles_labels()[1]) > 18 else 2
    axis.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        bbox_transform=axis.transAxes + under,
        ncols=columns,
        columnspacing=1.0,
        handlelength=1.8,
    )


def legend_of_all(figure: Figure, axes: Sequence[Any], order: Sequence[str] = ()) -> None:
    """One legend for all panels: in the place of a panel that is not there, or under the figure."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    labels = sorted(found, key=lambda label: order.index(label) if label in order else len(order))
    handles = [found[label] for label in labels]
    empty = [axis for axis in axes if not axis.has_data()]
    for axis in empty:
        axis.axis("off")
    if empty:
        empty[-1].legend(handles, labels, loc="center")
    else:
        wide = max(map(len, labels), default=0) > 24  # four such columns are wider than the figure
        n = min(len(labels), 3 if wide else 4)
        figure.legend(handles, labels, loc="outside lower center", ncols=n)
