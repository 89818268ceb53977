"""The command line: a thin shell over the functions of the package.

Only typer is imported at the top: everything else when a command runs, so that `--help` answers at once.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bayesify.terminal.arguments import (
    default_problems,
    epochs_of,
    given_problems,
    methods_of,
    minutes_of,
    multiples_of,
    names_of,
)

app = typer.Typer(
    name="bayesify",
    help="Turn any PyTorch network Bayesian, then prove whether that helped.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Out = Annotated[
    Path | None, typer.Option("--out", help="Results folder; the default is named after data and settings.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of words.")]


@app.command()
def compare(
    data: Annotated[str, typer.Argument(help="A CSV, TSV or Parquet file, or a data set's name.")],
    target: Annotated[str | None, typer.Option(help="Column to predict; the last one by default.")] = None,
    task: Annotated[str | None, typer.Option(help="regression, binary or multiclass; inferred by default.")] = None,
    drop: Annotated[str | None, typer.Option(help="Columns to leave out, separated by commas.")] = None,
    methods: Annotated[str | None, typer.Option(help='E.g. "swag, multi(laplace, 3)"; all by default.')] = None,
    control: Annotated[str | None, typer.Option(help="What all are compared to; deep_ensemble by default.")] = None,
    splits: Annotated[int, typer.Option(min=1, help="Train/test splits.")] = 5,
    seeds: Annotated[int, typer.Option(min=1, help="Training runs per split.")] = 1,
    group: Annotated[str | None, typer.Option(help="Keep rows of equal value in this column together.")] = None,
    time: Annotated[str | None, typer.Option(help="Train on earlier rows by this column, test on later ones.")] = None,
    gap: Annotated[
        bool, typer.Option("--gap", help="Test on the middle third by one feature after the other.")
    ] = False,
    examples: Annotated[int | None, typer.Option(min=2, help="Training rows of each split; all by default.")] = None,
    shift: Annotated[
        bool,
        typer.Option("--shift", help="Test on corrupted copies of test rows too: noise, blur, lost values, ..."),
    ] = False,
    shifted: Annotated[
        str | None, typer.Option(help="Test on sets from elsewhere too, with the same columns, e.g. wine-white.")
    ] = None,
    outside: Annotated[
        str | None, typer.Option(help="Sets that fit no class here, e.g. notmnist: are they told apart?")
    ] = None,
    shift_examples: Annotated[
        int, typer.Option(min=2, help="Test rows that --shift corrupts, each in every way.")
    ] = 500,
    budget: Annotated[
        str | None, typer.Option(help="Epochs of each of the control's 10 members, e.g. 100; sized to the data.")
    ] = None,
    budgets: Annotated[str, typer.Option(help="Multiples of the budget, e.g. 1,4,16.")] = "1",
    tune: Annotated[int, typer.Option(min=0, help="Tuning trials per method, charged to its budget.")] = 0,
    model: Annotated[str, typer.Option(help="lenet, resnet20_frn, or yours: package.module:factory.")] = "default",
    likelihood: Annotated[str | None, typer.Option(help="student_t for numbers by default, or e.g. gaussian.")] = None,
    prior: Annotated[str | None, typer.Option(help="Of the weights, e.g. student_t; normal, wide, by default.")] = None,
    margin: Annotated[float, typer.Option(help="Largest difference (nats) that does not matter.")] = 0.01,
    seed: Annotated[int, typer.Option(help="Of splits and training.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; all cores by default.")] = None,
    out: Out = None,
    retry_failed: Annotated[bool, typer.Option(help="Run failed cells again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare Bayesian methods with a deep ensemble at equal compute; the same command again resumes."""
    from bayesify.arena.compare import compare as run_comparison
    from bayesify.datasets import make_task
    from bayesify.terminal.display import display
    from bayesify.terminal.stopping import keeping_what_finished

    prepared = make_task(data, target, task, names_of(drop))
    with keeping_what_finished(), display(quiet=as_json) as watch:
        watch.task(prepared)
        result = run_comparison(
            model,
            prepared,
            methods=methods_of(methods),
            control=control,
            splits=splits,
            seeds=seeds,
            group=group,
            time=time,
            gap=gap,
            examples=examples,
            shift=shift,
            shifted=names_of(shifted),
            outside=names_of(outside),
            shift_examples=shift_examples,
            epochs=epochs_of(budget),
            budgets=multiples_of(budgets),
            tune=tune,
            likelihood=likelihood,
            prior=prior,
            margin=margin,
            seed=seed,
            workers=workers or os.cpu_count() or 1,
            out=out,
            retry_failed=retry_failed,
            watch=watch,
        )
    _show(result, as_json)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A results folder of `compare`.")],
    as_json: AsJson = False,
) -> None:
    """Write the report again from what is finished, and say what is missing."""
    from bayesify.arena.resume import result_of

    _show(result_of(folder), as_json)


@app.command()
def status(
    folder: Annotated[Path, typer.Argument(help="A results folder of `compare`.")],
    as_json: AsJson = False,
) -> None:
    """How far a comparison has come."""
    from bayesify.arena.resume import progress_of
    from bayesify.terminal.tables import print_status

    found = progress_of(folder)
    _print_json(found) if as_json else print_status(found)


@app.command()
def methods(as_json: AsJson = False) -> None:
    """The methods, what each is, and its settings."""
    from bayesify.terminal.tables import method_rows, print_methods

    rows = method_rows()
    _print_json(rows) if as_json else print_methods(rows)


@app.command()
def datasets(as_json: AsJson = False) -> None:
    """The data sets known by name."""
    from bayesify.datasets import list_datasets
    from bayesify.terminal.tables import print_datasets

    rows = list_datasets()
    _print_json([row._asdict() for row in rows]) if as_json else print_datasets(rows)


@app.command()
def check(
    method: Annotated[str, typer.Argument(help="E.g. laplace, or 'multi(swag, 5)'.")],
    full: Annotated[
        bool, typer.Option("--full", help="Four times as many simulations, and stored references.")
    ] = False,
    simulations: Annotated[
        int | None, typer.Option(min=0, help="Of small networks with known weights; 100, or 400 with --full.")
    ] = None,
    references: Annotated[
        str | None, typer.Option(help="Data with stored references: 'yacht,credit-g', or 'yacht=FOLDER'.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the check.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Is it the posterior? Exit code 1 where a method is less exact than it declares."""
    from bayesify.exactness import check_method
    from bayesify.exactness.sbc import FULL, QUICK

    chosen = simulations if simulations is not None else FULL if full else QUICK
    given = given_problems(references) if references is not None else default_problems() if full else []
    found = check_method(method, seed=seed, simulations=chosen, references=given)
    _print_json(found.as_dict()) if as_json else typer.echo(str(found))
    if not found.passed:
        raise typer.Exit(1)


@app.command()
def reference(
    data: Annotated[str, typer.Argument(help="A CSV, TSV or Parquet file, or a data set's name.")],
    target: Annotated[str | None, typer.Option(help="Column to predict; the last one by default.")] = None,
    task: Annotated[str | None, typer.Option(help="regression, binary or multiclass; inferred by default.")] = None,
    network: Annotated[str, typer.Option(help="Widths of the hidden layers, e.g. 16-16 or 50.")] = "16-16",
    likelihood: Annotated[str | None, typer.Option(help="gaussian or categorical by default.")] = None,
    prior: Annotated[str, typer.Option(help="Of the weights, e.g. normal or laplace.")] = "normal",
    method: Annotated[str | None, typer.Option(help='The sampler, e.g. "hmc(mass=prior)".')] = None,
    chains: Annotated[int, typer.Option(help="Run side by side.")] = 8,
    draws: Annotated[int, typer.Option(help="Kept of each chain.")] = 250,
    minutes: Annotated[float, typer.Option(help="Of sampling, in all.")] = 10.0,
    split: Annotated[int, typer.Option(help="Which train/test split, from 0.")] = 0,
    seed: Annotated[int, typer.Option(help="Of splits and sampling.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="Folder; the default is in the cache.")] = None,
    as_json: AsJson = False,
) -> None:
    """Sample a small network's posterior for long and say how well it is known; the same command continues."""
    from bayesify.datasets import make_task
    from bayesify.reference import make_reference, parsed_setup
    from bayesify.terminal.fidelity import display, print_reference
    from bayesify.terminal.stopping import keeping_what_finished

    prepared = make_task(data, target, task)
    setup = parsed_setup(
        prepared, network, likelihood, method, prior=prior, chains=chains, draws=draws, split=split, seed=seed
    )
    with keeping_what_finished(), display(quiet=as_json) as shown:
        shown.task(prepared)
        found = make_reference(
            prepared, setup, budget=minutes_of(minutes), folder=out, progress=shown.fraction, watch=shown.stage
        )
    _print_json(found.as_dict()) if as_json else print_reference(found)


@app.command()
def fidelity(
    data: Annotated[str, typer.Argument(help="A CSV, TSV or Parquet file, or a data set's name.")],
    target: Annotated[str | None, typer.Option(help="Column to predict; the last one by default.")] = None,
    task: Annotated[str | None, typer.Option(help="regression, binary or multiclass; inferred by default.")] = None,
    methods: Annotated[str | None, typer.Option(help='E.g. "swag, multi(laplace, 3)"; all by default.')] = None,
    seeds: Annotated[int, typer.Option(help="Fits of every method at every budget.")] = 3,
    budget: Annotated[
        str | None, typer.Option(help="Epochs of each of the ensemble's 10 members, e.g. 100; sized to the data.")
    ] = None,
    budgets: Annotated[str, typer.Option(help="Multiples of the budget, e.g. 1,4,16.")] = "1",
    network: Annotated[str, typer.Option(help="Widths of the hidden layers, e.g. 16-16 or 50.")] = "16-16",
    likelihood: Annotated[str | None, typer.Option(help="gaussian or categorical by default.")] = None,
    prior: Annotated[str, typer.Option(help="Of the weights, e.g. normal or laplace.")] = "normal",
    method: Annotated[str | None, typer.Option(help="The reference's sampler.")] = None,
    chains: Annotated[int, typer.Option(help="Of the reference.")] = 8,
    draws: Annotated[int, typer.Option(help="Kept of each chain.")] = 250,
    minutes: Annotated[float, typer.Option(help="Of sampling the reference, in all.")] = 10.0,
    split: Annotated[int, typer.Option(help="Which train/test split, from 0.")] = 0,
    seed: Annotated[int, typer.Option(help="Of splits and the reference.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", help="The reference's folder; the default is in the cache.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """How close methods come to the reference at equal compute; makes the reference where there is none yet."""
    from bayesify.arena.fidelity import fidelity_field, measure_fidelity
    from bayesify.datasets import make_task
    from bayesify.reference import make_reference, parsed_setup
    from bayesify.terminal.fidelity import display, print_fidelity
    from bayesify.terminal.stopping import keeping_what_finished

    prepared, chosen, multiples, epochs = (
        make_task(data, target, task),
        methods_of(methods),
        multiples_of(budgets),
        epochs_of(budget),
    )
    fidelity_field(chosen)  # a misspelt name fails before minutes of sampling
    setup = parsed_setup(
        prepared, network, likelihood, method, prior=prior, chains=chains, draws=draws, split=split, seed=seed
    )
    with keeping_what_finished(), display(quiet=as_json) as shown:
        shown.task(prepared)
        made = make_reference(
            prepared, setup, budget=minutes_of(minutes), folder=out, progress=shown.fraction, watch=shown.stage
        )
        found = measure_fidelity(
            prepared, made, chosen, multiples=multiples, seeds=seeds, epochs=epochs, watch=shown.watch
        )
    _print_json(found) if as_json else print_fidelity(found)


@app.command("testbed")
def neural_testbed(
    methods: Annotated[str | None, typer.Option(help='E.g. "map, multi(laplace, 3), hmc".')] = None,
    control: Annotated[str | None, typer.Option(help="What all are compared to; deep_ensemble by default.")] = None,
    problems: Annotated[str | None, typer.Option(help="Names or patterns, e.g. '2-*, 10-1-0.1-0'; all 36.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Epochs of each of an ensemble's 10 members, e.g. 100; sized to the data.")
    ] = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """How near marginal and joint predictions come to known truths, on 36 small problems."""
    from bayesify.arena.testbed import measure_testbed
    from bayesify.terminal.stopping import keeping_what_finished
    from bayesify.terminal.testbed import display, print_testbed

    with keeping_what_finished(), display(quiet=as_json) as watch:
        found = measure_testbed(
            methods_of(methods),
            control=control,
            problems=names_of(problems) or None,
            epochs=epochs_of(budget),
            out=out,
            watch=watch,
        )
    _print_json(found) if as_json else print_testbed(found)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """What is installed here, and what each missing part would add."""
    from bayesify.terminal.doctor import examine, print_examination

    found = examine()
    _print_json(found) if as_json else print_examination(found)


def main() -> None:
    """Runs the command line: errors of ours are one line and exit code 2."""
    from bayesify.errors import BayesifyError

    try:
        app(standalone_mode=True)
    except BayesifyError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


def _show(result: Any, as_json: bool) -> None:
    paths = result.report()
    if as_json:
        from bayesify.arena.summary import summary

        _print_json(summary(result.data))
        return
    from bayesify.terminal.tables import print_result

    print_result(result.data, paths.html)


def _print_json(value: Any) -> None:
    from bayesify.arena.report.plain import strict_json

    typer.echo(strict_json(value))
