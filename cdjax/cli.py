"""The command line: `cdjax run | eval | generate | export | report | bench`. Each command calls a function.

Heavy packages (jax, transformers, matplotlib) are imported by the commands that need them, so that `--help` and a
mistake are answered at once. A UserError becomes a line and exit code 2.
"""

import argparse
import os
import sys
from pathlib import Path

from cdjax import config
from cdjax.config import check
from cdjax.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Runs a command and returns the exit code."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it advises to install torch
    arguments = parser().parse_args(argv)
    try:
        arguments.command(arguments)
    except UserError as error:
        _complain(str(error))
        return 2
    except KeyboardInterrupt:
        continues = arguments.command in (_run, _eval)
        _complain(f"stopped{'; the same command continues from here' if continues else ''}")
        return 130
    except RuntimeError as error:  # errors of jax are RuntimeErrors
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        _complain(
            f"the device is out of memory: {error}; lower training.sampling.batch or "
            "training.update.batch, raise training.update.micro_batches, set devices.remat=full, or give "
            "devices.mesh.fsdp more devices; what has been done is kept"
        )
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments of every command."""
    top = argparse.ArgumentParser(prog="cdjax", description="Context distillation in JAX.")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, call, help: str) -> argparse.ArgumentParser:
        subparser = commands.add_parser(name, help=help, description=help)
        subparser.set_defaults(command=call)
        return subparser

    run = command("run", _run, "Distil as a config says, or continue; the results go to a run directory.")
    run.add_argument("--profile", action="store_true", help="trace a few steps, for https://ui.perfetto.dev")
    score = command("eval", _eval, "Score the teacher and the model before, without training; run goes on from there.")
    for subparser in (run, score):
        subparser.add_argument("config", metavar="CONFIG", help="a file from configs/, or a run's config.json")
        subparser.add_argument(
            "--set", metavar="A.B=C", type=_change, action="append", default=[], help="change a field"
        )
        subparser.add_argument("--workdir", type=Path, metavar="DIR", help="run directory (default: runs/NAME)")

    generate = command("generate", _generate, "Continue prompts.")
    generate.add_argument("model", metavar="MODEL", help="directory, hub id, .gguf file or pypi:PACKAGE")
    generate.add_argument("prompts", metavar="PROMPT", nargs="+")
    generate.add_argument("--context", type=Path, metavar="FILE", help="text that comes before every prompt")
    generate.add_argument("--max-new-tokens", type=int, default=64, metavar="N")
    generate.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0, the default, is greedy")
    generate.add_argument("--seed", type=int, default=0, metavar="N")

    export = command("export", _export, "Write a run's student as a directory that transformers loads.")
    export.add_argument("workdir", type=Path, metavar="WORKDIR")
    export.add_argument("directory", type=Path, metavar="DIRECTORY")
    export.add_argument("--seed", type=int, default=0, metavar="N", help="which of the run's seeds")

    report = command("report", _report, "Write report.html into run directories and print their table.")
    report.add_argument("workdirs", type=Path, metavar="DIR", nargs="+")

    bench = command("bench", _bench, "Measure sample, score, update, loss and rounds, beside peers where installed.")
    bench.add_argument("names", metavar="BENCH", nargs="*", help="as update, or one case of it as update/all")
    bench.add_argument("--json", action="store_true", help="a JSON object a line and figure in the place of the table")
    bench.add_argument("--scale", default="small", metavar="SIZE", help="tiny, small (the default) or large")
    bench.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="what cdjax computes in")
    bench.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="or CPU seconds of all threads")
    bench.add_argument("--repeat", type=_count, default=5, metavar="N", help="turns of each comparison")
    bench.add_argument("--seconds", type=float, default=60.0, metavar="S", help="no new turn after so many")
    bench.add_argument(
        "--peer-python", metavar="PATH", action="append", default=[], help="another interpreter that may have peers"
    )
    bench.add_argument("--against", metavar="NAME", action="append", help="only those whose name begins so, as TRL")
    bench.add_argument("--alone", action="store_true", help="without peers")
    return top


def _run(arguments: argparse.Namespace) -> None:
    cfg, workdir = _experiment(arguments)
    from cdjax.distill import rounds
    from cdjax.learn import update

    try:
        rounds.run(cfg, workdir, profile=arguments.profile)
    except update.Diverged as error:
        sys.exit(f"cdjax: {error}")
    _tell([workdir])
    if arguments.profile:
        traces = sorted(map(str, (workdir / "profile").glob("*.json.gz")))
        _say("\n".join(traces) or "no trace: all steps had been done before")


def _eval(arguments: argparse.Namespace) -> None:
    cfg, workdir = _experiment(arguments)
    from cdjax.distill import rounds

    rounds.evaluate(cfg, workdir)
    _tell([workdir])


def _generate(arguments: argparse.Namespace) -> None:
    context = None if arguments.context is None else _text(arguments.context)
    from cdjax import language_model

    answers = language_model.load_model(arguments.model).generate(
        arguments.prompts,
        context=context,
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        seed=arguments.seed,
    )
    _say("\n".join(answers))


def _export(arguments: argparse.Namespace) -> None:
    if not (arguments.workdir / "config.json").is_file():
        raise UserError(f"{arguments.workdir} is not a run directory: it has no config.json")
    from cdjax.distill import rounds

    rounds.export(arguments.workdir, arguments.directory, arguments.seed)
    _say(f"wrote {arguments.directory}")


def _report(arguments: argparse.Namespace) -> None:
    from cdjax.report import page

    for workdir in arguments.workdirs:
        page.write(workdir)
    _tell(arguments.workdirs)


def _bench(arguments: argparse.Namespace) -> None:
    from cdjax.bench import cases

    chosen = cases.cases(arguments.names, arguments.scale, arguments.dtype)
    if arguments.against:
        chosen = cases.against(chosen, arguments.against)
    if arguments.alone and arguments.peer_python:
        raise UserError("--alone leaves out the peers that --peer-python looks for; give one of the two")
    from cdjax.bench import contest, figures

    pythons = [] if arguments.alone else [sys.executable, *arguments.peer_python]
    rules = contest.Rules(arguments.clock, arguments.repeat, arguments.seconds)
    measured = []
    for figure in contest.run(chosen, pythons, rules, tell=lambda text: sys.stderr.write(text + "\n")):
        measured.append(figure)
        if arguments.json:
            _say(figure.line())
    if not arguments.json:
        figures.show(measured)


def _tell(workdirs: list[Path]) -> None:
    """Prints a table of all runs, and the path of each run's page."""
    from cdjax.report import page

    _say(page.table(workdirs))
    _say("\n".join(str(workdir / page.PAGE) for workdir in workdirs))


def _experiment(arguments: argparse.Namespace) -> tuple[config.Experiment, Path]:
    cfg = config.override(config.load_config(arguments.config), dict(arguments.set))
    check.validate(cfg)
    return cfg, arguments.workdir or Path("runs") / cfg.name


def _change(text: str) -> tuple[str, str]:
    path, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form a.b=c")
    return path.strip(), value


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count of 1 or more")
    return int(text)


def _text(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"there is no context file {path}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"the context file {path} is not UTF-8 text") from None


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _complain(text: str) -> None:
    sys.stderr.write(f"cdjax: {' '.join(text.split())}\n")


if __name__ == "__main__":
    sys.exit(main())
