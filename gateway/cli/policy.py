"""`sandgate policy`: is a policy file right, does it do what its tests say, and why does it decide so."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gateway.cli import policy_diff, policy_learn
from gateway.cli.calls import parse_arguments
from gateway.cli.options import FormatOption
from gateway.cli.output import Format, say, show
from gateway.errors import ConfigError, Problem, UsageError

if TYPE_CHECKING:
    from gateway.core.calls import Principal
    from gateway.core.policy import PackFacts, Policy, TestResult

__all__ = ["app"]

app = typer.Typer(
    help="Policy files: check, test, explain, diff, learn.", no_args_is_help=True, rich_markup_mode=None
)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The policy file.")]
PackOption = Annotated[
    list[str] | None,
    typer.Option(
        "--pack",
        metavar="PACK",
        help="The toolpack it is for; may be repeated [the one that names it as its own].",
    ),
]
ModeOption = Annotated[Literal["training", "deployment"], typer.Option("--mode", help="Whose rules hold.")]


class CheckFormat(StrEnum):
    """What the answer of `check` looks like."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"


CheckFormatOption = Annotated[
    CheckFormat, typer.Option("--format", help="text, or one JSON or SARIF document on stdout.")
]


@app.command()
def check(file: FileArgument, pack: PackOption = None, form: CheckFormatOption = CheckFormat.TEXT) -> None:
    """Look for faults (exit code 2), failing tests of the file (1), and what is probably wrong (0)."""
    from gateway.core.policy import check as warnings_of
    from gateway.core.policy import compile_policy

    try:
        policy = _load(file)
    except ConfigError as error:
        if form is not CheckFormat.TEXT:
            _show_problems(form, error.problems, [], "")
        raise
    facts = _facts(policy, pack)
    warnings = warnings_of(policy, facts)
    results = compile_policy(policy, facts, verify=False).run_tests()
    failed = [result.problem for result in results if result.problem]
    fine = f"{file}: {len(policy.model.rules)} rules, ok"
    _show_problems(form, failed, warnings, "\n".join(map(str, [*failed, *warnings])) or fine)
    if failed:
        raise typer.Exit(1)


def _show_problems(
    form: CheckFormat, errors: Sequence[Problem], warnings: Sequence[Problem], text: str
) -> None:
    from gateway.cli.sarif import sarif
    from gateway.core.policy import report

    document = sarif(errors, warnings) if form is CheckFormat.SARIF else report(errors, warnings)
    show(Format.TEXT if form is CheckFormat.TEXT else Format.JSON, document, text)


@app.command(name="test")
def run_tests(file: FileArgument, pack: PackOption = None, form: FormatOption = Format.TEXT) -> None:
    """Run the file's tests and those of the *.cases.yaml beside it. Exits with 1 if one fails."""
    results = _results(file, pack)
    failed = [str(result.problem) for result in results if result.problem]
    document = {"passed": len(results) - len(failed), "failed": len(failed), "problems": failed}
    show(form, document, "\n".join([*failed, f"{file}: {document['passed']} of {len(results)} tests pass"]))
    if failed:
        raise typer.Exit(1)


@app.command()
def explain(
    file: FileArgument,
    call: Annotated[
        str,
        typer.Option(
            "--call", metavar="SERVER.TOOL", help="The tool, or resource:SERVER/URI, prompt:SERVER/NAME."
        ),
    ],
    args: Annotated[str, typer.Option("--args", metavar="JSON", help="The arguments, a JSON object.")] = "{}",
    pack: PackOption = None,
    who: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="Who calls: a name from the file's principals.")
    ] = None,
    labels: Annotated[str, typer.Option("--labels", metavar="A,B", help="What the session carries.")] = "",
    prompt: Annotated[
        str, typer.Option("--prompt", metavar="TEXT", help="The task the session is for.")
    ] = "",
    after: Annotated[
        list[str] | None,
        typer.Option("--after", metavar="SERVER.TOOL", help="A tool called before; may be repeated."),
    ] = None,
    mode: ModeOption = "deployment",
    form: FormatOption = Format.TEXT,
) -> None:
    """Say how a call would be decided and why: rules that held, and what each other rule lacked.

    Exits with 0 if the call would be allowed, else 1.
    """

    from gateway.core.policy import PackFacts, Request, compile_policy
    from gateway.core.policy import explain as explanation_of
    from gateway.core.policy.explain import imagined

    policy = _load(file)
    facts = _facts(policy, pack) or PackFacts()
    compiled = compile_policy(policy, facts, verify=False)
    carried = [label.strip() for label in labels.split(",") if label.strip()]
    try:
        request = Request.named(
            call, parse_arguments(args), facts, principal=_principal(policy, who), mode=mode
        )
    except ValueError as error:
        raise UsageError(f"--call {call}: {error}") from None
    situation = imagined(compiled, labels=carried, prompt=prompt, after=after or ())
    explanation = explanation_of(compiled, request.seen_in(situation))
    show(form, explanation.wire(), "\n".join(explanation.lines()))
    if not explanation.decision.allowed:
        raise typer.Exit(1)


app.command()(policy_diff.diff)
app.command()(policy_learn.learn)


def _load(file: Path) -> Policy:
    from gateway.cli.files import read_text
    from gateway.core.policy import load_policy

    return load_policy(read_text(file), str(file))


def _facts(policy: Policy, packs: Sequence[str] | None) -> PackFacts | None:
    from gateway.cli.policies import facts_of, pack_of_policy
    from gateway.runtime.packs import load_pack

    own = None if packs else pack_of_policy(Path(policy.file))
    found = [load_pack(pack, to_serve=False) for pack in packs or ()] + ([own] if own else [])
    if not found and any(name.startswith("@") for rule in policy.model.rules for name in rule.args):
        say(f"{policy.file}: no toolpack is known for it, so '@path' and the like name nothing: give --pack")
    return facts_of(found)


def _results(file: Path, pack: Sequence[str] | None) -> list[TestResult]:
    from gateway.cli.files import read_text
    from gateway.core.policy import cases_file_name, compile_policy, load_cases

    policy = _load(file)
    compiled = compile_policy(policy, _facts(policy, pack), verify=False)
    beside = Path(cases_file_name(str(file)))
    more = compiled.run_tests(load_cases(read_text(beside), str(beside))) if beside.exists() else []
    return [*compiled.run_tests(), *more]


def _principal(policy: Policy, name: str | None) -> Principal:
    from gateway.core.calls import LOCAL
    from gateway.core.policy.cases import sample_principal

    if name is None:
        return LOCAL
    if name not in policy.model.principals:
        known = ", ".join(policy.model.principals) or "none"
        raise UsageError(f"--as {name}: no such name among the file's principals; there are: {known}")
    return sample_principal(name, policy.model.principals[name])
