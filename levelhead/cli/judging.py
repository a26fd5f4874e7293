"""The commands that judge anyone's predictions: audit, calibrate, decide."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from levelhead.cli.common import add_json, add_out, deliver, new_result_folder, print_json
from levelhead.cli.flags import Parser
from levelhead.errors import LevelheadError

if TYPE_CHECKING:
    from levelhead.outputs import Outputs
    from levelhead.report.judgement_page import Judgement
    from levelhead.report.next_steps import Step
    from levelhead.runs import Run

_PREDICTIONS = "npz, safetensors, csv, parquet, or a run folder (its test outputs)"


def audit(words: list[str]) -> int:
    """`levelhead audit`."""
    parser = Parser(
        prog="levelhead audit",
        description="Judge predictions: npz or safetensors (logits or probabilities, labels; "
        "optional features, ids, groups, classes), CSV or parquet with a column a class and "
        "`label`, or a run. Writes a report and advises; nothing is applied. Of two, the second "
        "is compared with the first, example by example.",
    )
    parser.add_argument("predictions", metavar="PREDICTIONS", help=_PREDICTIONS)
    parser.add_argument(
        "other", nargs="?", metavar="OTHER", help="another model's, of the same examples"
    )
    _add_kind(parser)
    parser.add_argument(
        "--people", metavar="FILE", help="what annotators said: counts [N, K], npy/csv"
    )
    parser.add_argument(
        "--acceptable",
        metavar="FILE",
        help="the labels that each example may have: id and labels (names with | between them)",
    )
    parser.add_argument(
        "--superclasses", metavar="FILE", help="what each class is a kind of: class, superclass"
    )
    _add_group_column(parser)
    parser.add_argument(
        "--label-noise", type=float, metavar="R", help="share of the labels that may be false"
    )
    parser.add_argument("--bins", type=int, default=15, metavar="N", help="bins (default: 15)")
    _add_risk(parser)
    _add_outside(parser)
    _add_methods(parser)
    _add_figures(parser)
    add_out(parser, "folder for report.html and findings.json (default: the next runs/NAME-N)")
    add_json(parser)
    options = parser.parse(words)

    from levelhead.judging import audit
    from levelhead.outputs import read_acceptable, read_people, read_superclasses
    from levelhead.report import metric_table, next_steps

    outputs = _read(options, options.predictions)
    if options.other is not None:
        for flag in ("people", "acceptable", "superclasses"):
            if (value := getattr(options, flag)) is not None:
                raise LevelheadError(f"--{flag} {value}: is for one model; audit each alone")
        return _versus(options, outputs, words)
    if options.people is not None:
        outputs = outputs.with_people(read_people(options.people, outputs))
    if options.acceptable is not None:
        outputs = outputs.with_acceptable(read_acceptable(options.acceptable, outputs))
    if options.superclasses is not None:
        kinds = read_superclasses(options.superclasses, outputs.class_names)
        outputs = dataclasses.replace(outputs, superclasses=kinds)
    outside = _outside(options)
    with _folder(options, options.predictions, "audit") as folder:
        choices = {"risk": options.risk, "methods": _methods(options), "bins": options.bins}
        result = audit(outputs, outside=outside, noise=options.label_noise, **choices)
        steps = next_steps.after_audit(result, options.predictions, options.kind)
        page = _page(result, options, options.predictions, "audit", words, steps)
        table = metric_table({"as given": result.findings})
        lines = [*result.words, "", table, f"Report: {folder}/report.html"]
        lines += next_steps.lines(steps)
        return deliver(result, lines, as_json=options.json, folder=folder, write_pages=page)


def _versus(options: Any, outputs: Outputs, words: list[str]) -> int:
    """`levelhead audit A B`."""
    from levelhead.judging import versus
    from levelhead.report.judgement_page import versus_table

    other = _read(options, options.other)
    names = _name(options.predictions), _name(options.other)
    with _folder(options, options.predictions, "versus") as folder:
        result = versus(outputs, other, names=names)
        page = _page(result, options, options.other, "audit", words)
        lines = [*result.words, "", versus_table(result.findings), f"Report: {folder}/report.html"]
        return deliver(result, lines, as_json=options.json, folder=folder, write_pages=page)


def calibrate(words: list[str]) -> int:
    """`levelhead calibrate`."""
    parser = Parser(
        prog="levelhead calibrate",
        description="Rank calibrators on validation predictions by cross-validation, fit the best "
        "there, apply it to test predictions and judge both.",
    )
    _add_both(parser)
    _add_methods(parser)
    _add_figures(parser)
    add_out(parser, "folder for calibration.json, calibrated.safetensors and the report")
    add_json(parser)
    options = parser.parse(words)

    from levelhead.judging import calibrate
    from levelhead.metrics import HEADLINE
    from levelhead.report import metric_table, next_steps
    from levelhead.report.judgement_page import ranking_table

    validation, test = _both(options)
    with _folder(options, options.validation, "calibration") as folder:
        result = calibrate(validation, test, _methods(options))
        findings = result.findings
        stages = {"before": findings["before"], "after": findings["after"]}
        steps = next_steps.after_calibration(words)
        page = _page(
            result, options, options.apply or options.validation, "calibrate", words, steps
        )
        lines = [*result.words, "", ranking_table(findings["ranking"]), ""]
        lines += [metric_table(stages, HEADLINE), f"Report: {folder}/report.html"]
        lines += next_steps.lines(steps)
        return deliver(result, lines, as_json=options.json, folder=folder, write_pages=page)


def decide(words: list[str]) -> int:
    """`levelhead decide`."""
    parser = Parser(
        prog="levelhead decide",
        description="Set a policy: when to answer, which set to give, what is none of the classes, "
        "each with what it promises; set on halves of the validation predictions, tried on test "
        "predictions. Of a run the policy is kept and obeyed by its predictions. Predictions "
        "without labels (--apply NEW) are decided by it.",
    )
    _add_both(parser)
    add = parser.add_argument
    add("--risk", type=float, metavar="R", help="share of answers that may be wrong, for example "
        "0.01 (default: the strictest of 0.01, 0.05, 0.1 that can be promised)")  # fmt: skip
    add("--risk-by-class", metavar="CSV", help="lines class,risk: a threshold for each class, all "
        "of which hold at once (others: --risk)")  # fmt: skip
    add("--coverage", type=float, metavar="C", help="instead: answer this share of the images")
    add("--unknown", type=float, default=0.05, metavar="A", help="own images that may be taken for "
        "none of mine (default: 0.05; 0: never say so)")  # fmt: skip
    add("--level", type=float, default=0.95, metavar="L", help="how sure promises are (0.95)")
    add("--alpha", type=float, default=0.1, metavar="A", help="how often sets may miss (0.1)")
    add("--rule", choices=["ltt", "sgr"], default="ltt", help="what makes a threshold's risk hold: "
        "learn then test, or SGR (default: ltt)")  # fmt: skip
    add("--costs", metavar="CSV", help="instead: costs; rows true, columns answers")
    add("--abstain-price", type=float, metavar="P", help="price of no answer")
    _add_outside(parser)
    _add_methods(parser)
    _add_figures(parser)
    add_out(parser, "folder for report.html and findings.json (default: the next runs/NAME-N)")
    add_json(parser)
    options = parser.parse(words)

    from levelhead.errors import NoLabels
    from levelhead.judging import decide
    from levelhead.report import next_steps

    try:
        validation, test = _both(options)
    except NoLabels:
        return _decide_new(options)
    run = _run_of(options)
    outside = _outside(options, run)
    with _folder(options, options.validation, "decision") as folder:
        result = decide(
            validation,
            test,
            outside=outside,
            methods=_methods(options),
            rule=options.rule,
            level=options.level,
            **_wishes(options, test.class_names, run),
        )
        if run is not None:
            from levelhead.deploy.kept import keep_policy
            from levelhead.report import write_report
            from levelhead.report.card import write_card

            keep_policy(run, result.policy)
            write_card(run)
            write_report(run.folder)
        steps = next_steps.after_decision(result, options.validation)
        page = _page(result, options, options.apply or options.validation, "decide", words, steps)
        lines = [*result.words, *([] if run is None else [f"Policy: {run.folder}/policy.json"])]
        lines += [f"Report: {folder}/report.html", *next_steps.lines(steps)]
        return deliver(result, lines, as_json=options.json, folder=folder, write_pages=page)


def _wishes(options: Any, names: tuple[str, ...], run: Run | None) -> dict[str, Any]:
    """What the flags of `decide` ask for."""
    from levelhead.decisions.costs import of_errors, read_costs
    from levelhead.deploy.kept import basis
    from levelhead.judging.setting import Wishes, read_risks

    costs = None if options.costs is None else read_costs(options.costs, names)
    if costs is None and options.abstain_price is not None:
        costs = of_errors(names)
    by_class = options.risk_by_class
    wishes = Wishes(
        risk=options.risk,
        risk_by_class=None if by_class is None else read_risks(by_class, names),
        coverage=options.coverage,
        costs=costs,
        abstain_price=options.abstain_price,
        alpha=options.alpha,
        unknown=options.unknown or None,
    )
    more: dict[str, Any] = {} if run is None else basis(run)
    price = options.abstain_price
    more |= {"costs": costs, "abstain_price": price, "alpha": options.alpha, "wishes": wishes}
    return more | {"risk": 0.01 if options.risk is None else options.risk}


def _run_of(options: Any) -> Run | None:
    from levelhead.runs import finished_run

    return finished_run(options.validation) if Path(options.validation).is_dir() else None


def _decide_new(options: Any) -> int:
    """`levelhead decide RUN --apply NEW`: predictions without labels, by the run's policy; of a
    file, by the policy that its examples set."""
    from levelhead.decisions.policy import SPOKEN
    from levelhead.deploy.predict import Predicted
    from levelhead.judging.setting import set_policy

    run = _run_of(options)
    new = _read(options, options.apply, labelled=False)
    if run is not None:
        policy = run.policy
    else:
        validation = _read(options, options.validation)
        choices = _wishes(options, validation.class_names, None)
        policy = set_policy(
            validation, choices["wishes"], methods=_methods(options), level=options.level,
            rule=options.rule,
        )  # fmt: skip
    if policy.unknown is not None and (why := policy.unknown.missing(new)):
        policy = policy.without_unknown(f"None of mine: not told here, {why}.")
    ids = new.ids or tuple(map(str, range(len(new))))
    result = Predicted(ids, policy.answers(new), ())
    if options.json and options.out is None:
        print_json(result.to_json())
        return 0
    with _folder(options, options.apply, "decision") as folder:
        assert folder is not None
        result.save(folder / "decisions.csv")
        policy.save(folder)
        kinds = result.answers.kinds
        shares = ", ".join(
            f"{kinds.count(kind):,} {name}"
            for kind, name in (("class", "a class"), *SPOKEN.items())
        )
        lines = [f"{len(ids):,} examples decided: {shares}.", *policy.promises]
        if options.json:
            print_json(result.to_json())
        else:
            print("\n".join([*lines, f"Decisions: {folder}/decisions.csv"]))
    return 0


def _add_kind(parser: Parser) -> None:
    kind = parser.add_mutually_exclusive_group()
    for name, help_ in (
        ("logits", "the scores are logits"),
        ("probabilities", "the scores are probabilities"),
        ("confidence", "only the columns prediction, confidence and label are to be used"),
    ):
        kind.add_argument(f"--{name}", dest="kind", action="store_const", const=name, help=help_)


def _add_both(parser: Parser) -> None:
    parser.add_argument(
        "validation", metavar="VALIDATION", help="predictions to fit on, or a run (both its splits)"
    )
    parser.add_argument("--apply", metavar="TEST", help="predictions to apply it to and judge")
    _add_group_column(parser)
    _add_kind(parser)


def _add_group_column(parser: Parser) -> None:
    parser.add_argument("--group-column", default="group", metavar="NAME", help="column of groups")


def _add_risk(parser: Parser) -> None:
    parser.add_argument(
        "--risk", type=float, default=0.01, metavar="R",
        help="share of answers that may be wrong (default: 0.01, a precision of 99 %%)",
    )  # fmt: skip


def _add_outside(parser: Parser) -> None:
    parser.add_argument(
        "--outside",
        metavar="FILE",
        help="predictions of examples from elsewhere, no labels; of a run also a folder of images",
    )


def _add_methods(parser: Parser) -> None:
    parser.add_argument(
        "--methods", nargs="+", metavar="NAME",
        help="calibrators to rank, or all (default: those that docs/reference.md says)",
    )  # fmt: skip


def _methods(options: Any) -> list[str] | None:
    if options.methods != ["all"]:
        methods: list[str] | None = options.methods
        return methods
    from levelhead.calibrators import CALIBRATORS

    return list(CALIBRATORS)


def _add_figures(parser: Parser) -> None:
    parser.add_argument("--figures", action="store_true", help="write figures (PNG, SVG), too")


def _read(options: Any, path: str, **more: Any) -> Outputs:
    """Predictions of a file, or of a run's test split."""
    from levelhead.outputs.read import read_predictions
    from levelhead.runs import finished_run

    if Path(path).is_dir():
        return finished_run(path).outputs("test")
    more = {"group_column": options.group_column} | more
    return read_predictions(path, options.kind, **more)


def _both(options: Any) -> tuple[Outputs, Outputs]:
    """Validation and test predictions: two files, or a run alone."""
    from levelhead.runs import finished_run

    if Path(options.validation).is_dir():
        run = finished_run(options.validation)
        test = run.outputs("test") if options.apply is None else _read(options, options.apply)
        return run.outputs("validation"), test
    if options.apply is None:
        raise LevelheadError(
            f"--apply TEST is missing: {options.validation} fits, other examples have to judge"
        )
    return _read(options, options.validation), _read(options, options.apply)


def _outside(options: Any, run: Run | None = None) -> Outputs | None:
    """Predictions of examples from elsewhere; with a run, images may be given instead."""
    if options.outside is None:
        return None
    path = Path(options.outside)
    if run is not None and path.is_dir() and not (path / "recipe.toml").exists():
        from levelhead.deploy.predict import outputs_elsewhere

        return outputs_elsewhere(run, path)
    return _read(options, options.outside, labelled=False)


def _folder(options: Any, path: str, what: str) -> AbstractContextManager[Path | None]:
    return new_result_folder(options, f"{Path(_name(path)).stem}-{what}")


def _page(
    result: Judgement,
    options: Any,
    path: str,
    name: str,
    words: list[str],
    steps: Sequence[Step] = (),
) -> Callable[[Path], Any]:
    """Writes the page and, where asked for, the figures."""
    from levelhead.report import write_judgement

    command = shlex.join(["levelhead", name, *words])
    more = {"command": command, "steps": steps, "figures": options.figures}
    return lambda folder: write_judgement(result, folder, title=_name(path), **more)


def _name(path: str) -> str:
    """The last part of a path, also of `.`."""
    return Path(path).absolute().name
