"""Every command calls one function; a mistake is one line and exit code 2, long before jax is imported."""

import subprocess
import sys
import types

import jax
import pytest

import cdjax
from cdjax import cli, config, distill, learn, report

CONFIG = """
from cdjax import config

def get_config():
    return config.Experiment("try", "tiny:0", (config.Operation("plural", config.Inputs(pool=True)),))
"""


@pytest.fixture
def path(tmp_path):
    """A config file that is right."""
    (tmp_path / "try.py").write_text(CONFIG)
    return tmp_path / "try.py"


@pytest.fixture
def calls(monkeypatch):
    """The calls that commands make, in the place of the library."""
    made = []

    def module(name, parent, **functions):
        stub = types.SimpleNamespace(**functions)
        monkeypatch.setitem(sys.modules, f"{parent.__name__}.{name}", stub)
        monkeypatch.setattr(parent, name, stub, raising=False)

    def record(name, answer=None):
        return lambda *args, **kwargs: made.append((name, *args, kwargs) if kwargs else (name, *args)) or answer

    model = types.SimpleNamespace(generate=record("generate", ["one", "two"]))
    module("rounds", distill, run=record("run"), evaluate=record("evaluate"), export=record("export"))
    module("update", learn, Diverged=type("Diverged", (RuntimeError,), {}))
    module("language_model", cdjax, load_model=record("load_model", model))
    module("page", report, PAGE="report.html", write=record("write"), table=record("table", "| a table |"))
    return made


def test_run_hands_over_the_changed_config(path, calls, tmp_path, capsys):
    code = cli.main(
        ["run", str(path), "--set", "training.optim.lr=3e-5", "--set", "name=a=b", "--workdir", str(tmp_path)]
    )
    wanted = config.override(config.load_config(path), {"training.optim.lr": 3e-5, "name": "a=b"})
    assert code == 0 and calls == [("run", wanted, tmp_path, {"profile": False}), ("table", [tmp_path])]
    assert capsys.readouterr().out == f"| a table |\n{tmp_path}/report.html\n"


def test_a_profile_is_asked_for_and_named(path, calls, tmp_path, capsys):
    command = ["run", str(path), "--profile", "--workdir", str(tmp_path)]
    assert cli.main(command) == 0 and calls[0][3] == {"profile": True}
    assert capsys.readouterr().out.endswith("no trace: all steps had been done before\n")
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "update.json.gz").touch()
    assert cli.main(command) == 0
    assert capsys.readouterr().out.endswith(f"report.html\n{tmp_path}/profile/update.json.gz\n")


def test_a_run_goes_to_a_directory_of_its_name(path, calls):
    assert cli.main(["run", str(path), "--set", "name=other"]) == 0
    assert str(calls[0][2]) == "runs/other"


def test_eval_scores_a_run_directory(path, calls, tmp_path):
    assert cli.main(["eval", str(path), "--workdir", str(tmp_path)]) == 0
    assert calls[0] == ("evaluate", config.load_config(path), tmp_path)


def test_generate_hands_over_context_and_sampling(calls, tmp_path, capsys):
    (tmp_path / "context.md").write_text("Say é.\n")
    flags = ["--max-new-tokens", "3", "--temperature", "0.5", "--seed", "7", "--context", str(tmp_path / "context.md")]
    assert cli.main(["generate", "tiny:0", "a", "b", *flags]) == 0
    sampling = {"context": "Say é.\n", "max_new_tokens": 3, "temperature": 0.5, "seed": 7}
    assert calls == [("load_model", "tiny:0"), ("generate", ["a", "b"], sampling)]
    assert capsys.readouterr().out == "one\ntwo\n"


def test_export_names_the_seed(calls, tmp_path, capsys):
    (tmp_path / "config.json").touch()
    assert cli.main(["export", str(tmp_path), "out", "--seed", "2"]) == 0
    assert [*map(str, calls[0])] == ["export", str(tmp_path), "out", "2"]
    assert capsys.readouterr().out == "wrote out\n"


def test_report_takes_several_runs(calls, tmp_path, capsys):
    assert cli.main(["report", str(tmp_path), "other"]) == 0
    assert [call[0] for call in calls] == ["write", "write", "table"]
    assert capsys.readouterr().out == f"| a table |\n{tmp_path}/report.html\nother/report.html\n"


def test_bench_hands_over_cases_interpreters_and_rules(monkeypatch, capsys):
    from cdjax.bench import cases, contest, figures

    figure = figures.Figure("loss", "vocabulary", {}, 1.0, "s", 0.5, 7, None, None)
    made = []
    monkeypatch.setattr(contest, "run", lambda *args, tell: made.append(args) or [tell("going on"), figure][1:])
    flags = ["--scale", "tiny", "--clock", "cpu", "--repeat", "3", "--seconds", "2", "--dtype", "bfloat16"]
    assert cli.main(["bench", "loss", "--json", *flags, "--peer-python", "a", "--peer-python", "b"]) == 0
    wanted = cases.cases(["loss"], "tiny", "bfloat16")
    assert made == [(wanted, [sys.executable, "a", "b"], contest.Rules("cpu", 3, 2.0))]
    assert capsys.readouterr() == (figure.line() + "\n", "going on\n")
    assert cli.main(["bench", "--alone"]) == 0
    assert made[1] == (cases.cases([], "small"), [], contest.Rules())
    assert "loss/vocabulary" in capsys.readouterr().out


def test_divergence_is_one_line_and_exit_code_1(path, calls, monkeypatch):
    def fail(cfg, workdir, profile):
        raise learn.update.Diverged("loss is NaN at step 3; lower optim.lr")

    monkeypatch.setattr(distill.rounds, "run", fail)
    with pytest.raises(SystemExit, match="^cdjax: loss is NaN at step 3; lower optim.lr$"):
        cli.main(["run", str(path)])
    assert calls == []


def test_a_device_that_is_full_is_one_line(path, calls, monkeypatch, capsys):
    for said in ("RESOURCE_EXHAUSTED: out of memory while trying to allocate 99 bytes", "INTERNAL: another thing"):

        def fail(cfg, workdir, profile, said=said):
            raise jax.errors.JaxRuntimeError(said)

        monkeypatch.setattr(distill.rounds, "run", fail)
        if "INTERNAL" in said:
            with pytest.raises(jax.errors.JaxRuntimeError):
                cli.main(["run", str(path)])
        else:
            assert cli.main(["run", str(path)]) == 1
            told = capsys.readouterr().err
            assert "99 bytes; lower training.sampling.batch" in told and told.count("\n") == 1


def test_an_interrupted_run_says_how_to_go_on(path, calls, monkeypatch, capsys):
    def stop(cfg, workdir, profile):
        raise KeyboardInterrupt

    monkeypatch.setattr(distill.rounds, "run", stop)
    assert cli.main(["run", str(path)]) == 130
    assert capsys.readouterr().err == "cdjax: stopped; the same command continues from here\n"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["run", "nowhere.py"], "there is no config file nowhere.py"),
        (["run", "CONFIG", "--set", "training.optim.lrr=1"], "training.optim has no field 'lrr'"),
        (["run", "CONFIG", "--set", "training.optim.lr=x"], "training.optim.lr must be a number, got 'x'"),
        (["run", "CONFIG", "--set", "training.update.micro_batches=17"], "cannot be cut into 17 parts"),
        (["eval", "CONFIG", "--set", "operations.0.context.file=a.md"], "context.file is 'a.md', which does not exist"),
        (["generate", "tiny:0", "a", "--context", "nowhere.md"], "there is no context file nowhere.md"),
        (["export", "nowhere", "out"], "nowhere is not a run directory"),
        (["bench", "fly"], "there is no bench 'fly'; there are sample, score, update, loss, rounds"),
        (["bench", "loss", "--scale", "huge"], "there is no scale 'huge'; there are tiny, small, large"),
        (["bench", "loss", "--against", "you"], "nobody here is called 'you'; there are Liger; Liger, bfloat16; dense"),
        (["bench", "--alone", "--peer-python", "a"], "--alone leaves out the peers that --peer-python looks for"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, path, calls, capsys):
    assert cli.main([str(path) if word == "CONFIG" else word for word in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("cdjax: ") and err.count("\n") == 1 and message in err
    assert calls == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "the following arguments are required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["run", "a.py", "--set", "training.optim.lr"], "'training.optim.lr' is not of the form a.b=c"),
        (["generate", "tiny:0"], "the following arguments are required: PROMPT"),
        (["generate", "tiny:0", "a", "--seed", "x"], "invalid int value: 'x'"),
        (["bench", "loss", "--repeat", "0"], "'0' is not a count of 1 or more"),
    ],
)
def test_bad_arguments_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_help_and_mistakes_are_answered_before_anything_heavy_is_imported(path):
    program = """
import sys
from cdjax import cli
wrong = ["run", "nowhere.py"], ["run", sys.argv[1], "--set", "training.optim.lr=x"], ["bench", "fly"]
for arguments in (["--help"], ["run", "--help"], *wrong):
    try:
        cli.main(arguments)
    except SystemExit:
        pass
heavy = {"jax", "flax", "transformers", "tokenizers", "matplotlib", "rich", "orbax", "optax"}
sys.exit(sorted(heavy & set(sys.modules)) or 0)
"""
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("cdjax: ")) == (0, 3), done.stderr
