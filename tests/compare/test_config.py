"""A request resolved: every value is filled in and typed, and whatever is wrong is told at once with its origin."""

import pytest
import torch

import methods
from core import problems
from core.architectures import defaults
from studies.compare import METHODS, PROBLEMS, _parse
from studies.runner.config import resolve
from studies.runner.request import ConfigErrors, request


def _plan(*words):
    return resolve(request(_parse(words), methods=METHODS, problems=PROBLEMS))


def _errors(*words):
    with pytest.raises(ConfigErrors) as caught:
        _plan(*words)
    assert caught.value.code == 2
    return list(caught.value.messages)


def _file(tmp_path, text):
    path = tmp_path / "study.toml"
    path.write_text(text)
    return str(path)


def test_default_plan_is_every_pair_once_in_every_seed():
    cells = _plan().cells
    assert len({(c.problem, c.method, c.seed) for c in cells}) == len(cells) == 96
    assert [c.seed for c in cells] == sorted(c.seed for c in cells)  # whole seeds first
    assert {tuple(c.budget.items()) for c in cells} == {(("epochs", 30),)}


@pytest.mark.parametrize("name", METHODS)
def test_no_default_is_left_open(name):
    (cell,) = _plan("--methods", name, "--problems", "moons", "--seeds", "1").cells
    signature = methods.signature(name)
    assert cell.hyperparameters == {key: parameter.default for key, parameter in signature.items()}
    description = problems.describe("moons")
    assert cell.network == {"name": "mlp", **defaults("mlp"), **description.network_options}
    assert (cell.batch, cell.schedule) == (description.batch, description.schedule)
    assert cell.budget == {"epochs": description.epochs}


def test_settings_reach_the_cells_they_name_and_no_others():
    words = ["--set", "ste.lr=3e-3", "--set", "network.widths=8,4", "--set", "problem.batch=16"]
    cells = _plan(*words, "--set", "problem.schedule=linear", "--steps", "9").cells
    assert {c.hyperparameters["lr"] for c in cells if c.method == "ste"} == {0.003}
    default = methods.signature("bayesbinn")["lr"].default
    assert {c.hyperparameters["lr"] for c in cells if c.method == "bayesbinn"} == {default}
    assert {(c.network["widths"], c.batch, c.schedule) for c in cells} == {((8, 4), 16, "linear")}
    assert {tuple(c.budget.items()) for c in cells} == {(("steps", 9),)}


def test_file_and_command_line_make_the_same_cells(tmp_path):
    text = """
    [compare]
    methods = ["ste"]
    problems = ["digits"]
    seeds = 2
    epochs = 3
    [network]
    widths = [8, 4]
    first = "real"
    [problem]
    batch = 16
    [ste]
    lr = 1
    """
    typed = "--methods ste --problems digits --seeds 2 --epochs 3 --set network.widths=8,4 --set network.first=real"
    from_file = _plan("--config", _file(tmp_path, text))
    assert from_file == _plan(*typed.split(), "--set", "problem.batch=16", "--set", "ste.lr=1.0")


def test_file_may_hold_sections_of_methods_that_this_run_leaves_out(tmp_path):
    path = _file(tmp_path, "[bop]\nthreshold = 1e-5\n[ste]\nlr = 0.1\n")
    assert len(_plan("--config", path, "--methods", "ste").cells) == 12
    broken = _file(tmp_path, "[bop]\nthreshhold = 1e-5\n")
    (error,) = _errors("--config", broken, "--methods", "ste")
    assert error.startswith("bop.threshhold: unknown key (from study.toml). Did you mean 'threshold'?")


def test_setting_of_a_method_that_does_not_run_is_an_error():
    (error,) = _errors("--methods", "ste,bop", "--set", "bayesbinn.lr=0.1")
    assert error == (
        "bayesbinn.lr (from --set) would change nothing: bayesbinn is not among the methods of this run (ste, bop)"
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("bayesbinn.momentum=2", "bayesbinn.momentum must be in [0, 1) (got 2, from --set)"),
        ("ste.lr=nan", "ste.lr must be finite (got nan, from --set)"),
        ("ste.lr=fast", "ste.lr must be a number (got fast, from --set)"),
        ("ste.lr=0.1,0.2", "ste.lr must be a number, not a list: a run has one value; run again with the next "),
        ("bop.adaptivity=2", "bop.adaptivity must be in [0, 1] (got 2, from --set)"),
        ("ste.clip=0", "ste.clip must be > 0 (got 0, from --set)"),
        ("bayesbinn.temperature=-1.0", "bayesbinn.temperature must be finite and > 0 (got -1.0, from --set)"),
        ("bayesbinn.bound=31", "bayesbinn.bound must be in (0, 30] (got 31, from --set)"),
        ("bayesbinn.draws=0", "bayesbinn.draws must be >= 1 (got 0, from --set)"),
        ("bayesbinn.draws=2.5", "bayesbinn.draws must be a whole number (got 2.5, from --set)"),
        ("network.first=foo", "network.first must be binary or real (got foo, from --set)"),
        ("network.widths=0,3", "network.widths must be positive integers (got 0,3, from --set)"),
        ("network.dropout=1.5", "network.dropout must be in [0, 1) (got 1.5, from --set)"),
        ("network.activation=tanh", "network.activation must be one of relu, hardtanh, sign (got tanh, from --set)"),
        ("network.name=mpl", "network.name: unknown network 'mpl' (from --set). Did you mean 'mlp'? Known: mlp"),
        ("network.xyz=3", "network.xyz: unknown key (from --set). Keys of network mlp: widths, activation, "),
        ("problem.batch=1", "problem.batch must be >= 2, for batch norm (got 1, from --set)"),
        ("ste.lr=-1", "ste.lr must be >= 0 (got -1, from --set)"),
        ("problem.schedule=cosin", "problem.schedule must be one of cosine, linear, constant (got cosin, from --set)"),
        ("problem.bach=3", "problem.bach: unknown key (from --set). Did you mean 'batch'? Keys of a problem: batch, "),
        ("stee.lr=1", "stee.lr: no method or section is called 'stee' (from --set). Did you mean 'ste'? Sections: "),
    ],
)
def test_impossible_setting_names_key_bound_value_and_origin(setting, message):
    (error,) = _errors("--set", setting)
    assert error.startswith(message)


def test_value_that_torch_refuses_is_blamed_on_its_key_with_the_value_as_typed():
    (error,) = _errors("--set", "full-precision.lr=-1e0")
    assert error.startswith("full-precision.lr") and "-1e0" in error and "from --set" in error


def test_two_impossible_values_of_one_method_are_both_told():
    errors = _errors("--set", "bayesbinn.momentum=2", "--set", "bayesbinn.lr=-1")
    assert sorted(error.split(" ")[0] for error in errors) == ["bayesbinn.lr", "bayesbinn.momentum"]


def test_everything_wrong_is_told_at_once(tmp_path):
    path = _file(tmp_path, '[compare]\nsed = 3\n[network]\nwidth = [3]\n[ste]\nlr = "x"\n')
    errors = _errors("--config", path, "--problems", "digit,moons", "--set", "stee.lr=1", "--seeds", "none")
    starts = ("compare.sed", "--seeds", "unknown problem 'digit'", "ste.lr", "network.width", "stee.lr")
    assert sorted(next(s for s in starts if e.startswith(s)) for e in errors) == sorted(starts)


def test_unknown_method_has_the_nearest_name_and_the_list():
    (error,) = _errors("--methods", "ste,bayesbin")
    assert error.startswith("unknown method 'bayesbin'. Did you mean 'bayesbinn'?")
    assert all(name in error for name in METHODS)


def test_unknown_problem_has_the_nearest_name_and_the_list():
    (error,) = _errors("--problems", "breast-canser")
    assert "unknown problem 'breast-canser'" in error and "did you mean breast-cancer?" in error
    assert all(name in error for name in (*problems.names(), "idx:FOLDER", "npz:FILE"))


def test_cuda_without_a_device_says_what_torch_is_and_what_to_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert _errors("--device", "cuda") == [f"torch sees no CUDA device (build {torch.__version__}). Use --device cpu"]


def test_network_beyond_all_memory_is_tried_without_any():
    # 2^22 x 2^22 weights are 64 TiB: laying them out for real could not be refused in time
    words = ["--set", "network.widths=4194304,4194304", "--methods", "ste", "--problems", "moons", "--seeds", "1"]
    (cell,) = _plan(*words).cells
    assert cell.network["widths"] == (4194304, 4194304)
