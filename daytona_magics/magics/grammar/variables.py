"""The verbs and options about variables."""

from __future__ import annotations

from daytona_magics.magics.grammar.terms import NAME, QUIET, Argument, Command, Option

INPUT = Option(
    ("-i", "--input"),
    "copy variables of the notebook into the sandbox before the cell runs; may be repeated",
    "[NEW=]NAME[,...]",
    repeat=True,
    values=NAME,
)
OUTPUT = Option(
    ("-o", "--output"),
    "copy variables of the sandbox into the notebook after the cell; may be repeated",
    "[NEW=]NAME[,...]",
    repeat=True,
)
UNSAFE_PICKLE = Option(
    ("--unsafe-pickle",),
    "take what cannot be copied safely as a pickle; reading one can run any code on the notebook's machine",
)

VERBS: tuple[Command, ...] = (
    Command(
        "push",
        "Copy variables of the notebook into the sandbox.",
        "line_variables:push",
        (Argument("names", "variables; NEW=NAME gives one another name there", "+", values=NAME),),
        (QUIET,),
        examples=("%sandbox push df", "%sandbox push x=local_x,y"),
    ),
    Command(
        "pull",
        "Copy variables of the sandbox into the notebook.",
        "line_variables:pull",
        (Argument("names", "variables; NEW=NAME gives one another name here", "+"),),
        (UNSAFE_PICKLE, QUIET),
        examples=("%sandbox pull result",),
    ),
)
