"""Whatever cannot work is refused before anything loads, and the refusal says what would."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.errors import MissingConfigException
from omegaconf import DictConfig

from specdec import cli
from specdec.commands.application import config_dir
from specdec.errors import ConfigError
from specdec.models import reading
from specdec.study import preflight, sweep
from specdec.study.plan import identity, plan

pytestmark = pytest.mark.fewer(3)

ROOT = Path(__file__).parent.parent.parent
EXPERIMENTS = sorted(path.stem for path in (ROOT / "configs" / "experiment").glob("*.yaml"))


def jobs(*words: str) -> list[DictConfig]:
    return preflight.jobs(config_dir(), "study", words)


def check(*words: str) -> int:
    """As the command does; how many jobs there are."""
    return len(preflight.jobs(config_dir(), "study", words, check=sweep.check))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["drafter.num_draft=3"], "Did you mean drafter.num_draft_tokens? Valid keys of drafter: "),
        (["targt.path=x"], "Did you mean target.path"),
        (["sampling.temprature=1"], "Did you mean sampling.temperature?"),
        (["batchs=2"], "Did you mean batch?"),
        (["drafter=nonesuch"], "Available options in 'drafter'"),
        (["rule=nonesuch"], "Available options in 'rule'"),
        (["experiment=nonesuch"], "Available options in 'experiment'"),
        (["sampling.temperature=warm"], "could not be converted to Float"),
        (["batch=many"], "could not be converted to Integer"),
        (["beside=suffix"], "beside=suffix cannot work: a list is asked for. Write beside=[suffix]."),
        (["sampling.stop=end"], "Write sampling.stop=[end]."),
        (["-m", "drafter=none,nonesuch"], "Available options in 'drafter'"),
        (["batch=1,2"], "batch=1,2"),
        (["sampling.logit_bias={5:1.5}"], "New entries take a plus: +sampling.logit_bias="),
        (["drafter=early_exit", "drafter.num_layer=3"], "Did you mean drafter.num_layers"),
        (
            ["-m", "rule=token,block", "drafter=early_exit", "drafter.layers=3"],
            "Valid keys of drafter: branches",
        ),
        (
            ["engine.adaptive=true"],
            "Write policy=product (true) or policy=always (false) instead. Valid keys",
        ),
    ],
)
def test_what_does_not_exist_is_answered_with_what_does(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        jobs(*words)
    assert message.split("? ")[0] in str(refusal.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rule=typical"], "rule='typical' is lossy"),
        (["drafter.branches=2", "rule=block", "sampling=sample"], "cannot judge trees"),
        (["rule=greedy", "sampling=sample"], "rule='greedy' would ignore temperature"),
        (["drafter=model"], "Nothing was given for drafter.draft"),
        (["precision.dtype=int9"], "Valid names: float32"),
        (["device.device=abacus"], "device='abacus' cannot be used"),
        (["drafter.num_draft_tokens=0"], "num_draft_tokens = 0 cannot work"),
        (["sampling.temperature=-1"], "temperature = -1.0 cannot work"),
        (["batch=9"], "Raise that"),
        (["drafter=custom", "drafter._target_=no.such.Thing"], "no.such.Thing"),
    ],
)
def test_what_does_not_fit_together_is_refused(words: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("something was loaded")

    monkeypatch.setattr(reading, "_complete", never)
    with pytest.raises(ConfigError) as refusal:
        check(*words)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("choice", "extra"), [("launcher/ray", "ray"), ("launcher/submitit_slurm", "slurm"), ("sweeper/optuna", "optuna")]
)
def test_a_plugin_that_is_not_installed_is_named_by_its_extra(
    choice: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*args: object, **kwargs: object) -> None:
        raise MissingConfigException(f"In 'launcher/x': Could not find 'hydra/{choice}'")

    monkeypatch.setattr(preflight, "compose", missing)
    with pytest.raises(ConfigError, match=rf"pip install 'specdec-lab\[{extra}\]'"):
        jobs()


def test_one_bad_job_of_a_sweep_stops_it_before_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="is lossy"):
        check("-m", "sampling=sample", "rule=token,block,typical")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["drafter=none,ngram", "sampling.temperature=0.5,cold"],
            r"Job 2 of 4 \(drafter=none sampling\.temp\S+=cold\): ",
        ),
        (["drafter=none,model"], r"Job 2 of 2 \(drafter=model\): Nothing was given for drafter\.draft"),
        (
            ["data=demo,mt_bench", "data.path=x", "data.limits=3"],
            r"Job 1 of 2 \(data=demo\): .*Did you mean data\.limit\?",
        ),
    ],
)
def test_a_job_of_a_sweep_that_cannot_be_is_named_by_what_is_its_own(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        check("-m", *words)


def test_a_draft_with_another_vocabulary_is_told_by_its_files(
    tmp_path: Path, tiny_folder: Path, composed: Callable[..., DictConfig]
) -> None:
    """A head of another width says nothing; a token with another id does."""
    files = json.loads((tiny_folder / "tokenizer.json").read_text(encoding="utf-8"))
    words = [f"target.path={tiny_folder}", "drafter=model", f"drafter.draft={tmp_path}"]
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 49999}), encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text(json.dumps(files), encoding="utf-8")
    assert plan(composed(*words)).drafters[0].name == "model"
    first, second = (token for token, number in files["model"]["vocab"].items() if number in (700, 900))
    vocab = files["model"]["vocab"]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (tmp_path / "tokenizer.json").write_text(json.dumps(files), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"different ids to the same tokens: .* is 700 in the target and 900 in the"):
        plan(composed(*words))


@pytest.fixture
def own_configs(tmp_path: Path) -> Path:
    """A folder of configs with a drafter in it."""
    (tmp_path / "drafter").mkdir()
    (tmp_path / "drafter" / "deep.yaml").write_text(
        "_target_: specdec.drafters.ngram.NgramDrafter\nnum_draft_tokens: 9\n", encoding="utf-8"
    )
    return tmp_path


def test_choices_of_a_folder_of_ones_own_are_checked_as_ours(own_configs: Path) -> None:
    by_flag = preflight.jobs(config_dir(), "study", ["-m", "drafter=ngram,deep"], further=str(own_configs))
    by_word = jobs("-m", f"hydra.searchpath=[file://{own_configs}]", "drafter=ngram,deep")
    assert [[config.drafter.num_draft_tokens for config in made] for made in (by_flag, by_word)] == [[5, 9]] * 2
    with pytest.raises(ConfigError, match="is not a folder"):
        preflight.jobs(config_dir(), "study", [], further="no/such/folder")


@pytest.mark.parametrize(
    "flags", [["--config-dir", "{}", "--config-name", "study"], ["-cd={}", "--run"], ["hydra.searchpath=[file://{}]"]]
)
def test_no_flag_turns_the_checks_off(
    flags: list[str], own_configs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [flag.format(own_configs) for flag in flags]
    monkeypatch.setattr("sys.argv", ["specdec", "study", *words, "rule=typical"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    [line] = capsys.readouterr().err.splitlines()
    assert (end.value.code, "is lossy" in line) == (2, True)


def test_a_sweep_is_multiplied_as_hydra_does() -> None:
    made = jobs("-m", "drafter=none,ngram", "rule=token,gumbel", "sampling.temperature=choice(0.5,1.0)")
    assert len(made) == 8
    assert [(one.rule._target_.rpartition(".")[2], one.sampling.temperature) for one in made[:4]] == [
        ("TokenRule", 0.5), ("TokenRule", 1.0), ("GumbelRule", 0.5), ("GumbelRule", 1.0)
    ]  # fmt: skip
    assert len(jobs("-m", "experiment=gamma", "drafter=ngram")) == 6
    assert len(jobs("experiment=gamma")) == 1


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "leaderboard" else []) for name in EXPERIMENTS]
)
def test_every_experiment_is_a_sweep_of_jobs_that_can_work(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the rules are lossless is asked elsewhere."""
    monkeypatch.setattr("specdec.study.plan.certificate_of", lambda rule: {"passed": True})
    assert check("-m", f"experiment={name}") >= 2


def test_identity_is_of_what_is_found_out_and_of_the_prompts(composed: Callable[..., DictConfig]) -> None:
    base = composed()
    records = plan(base).source.load()
    name = identity(base, records)
    assert identity(composed("tracking=wandb_offline", "study=x", "report=false", "rerun=true"), records) == name
    others = [composed("drafter.num_draft_tokens=6"), composed("sampling.seed=1"), composed("batch=2"),
              composed("precision=bfloat16"), composed("rule=gumbel"), composed("policy=product")]  # fmt: skip
    assert len({name, *(identity(other, records) for other in others), identity(base, records[:-1])}) == 8


def test_axes_name_files_without_the_folders_of_this_machine(
    composed: Callable[..., DictConfig], prompt_file: Path, tiny_folder: Path
) -> None:
    axes = plan(composed()).axes
    assert (axes["data"], axes["target"]) == (prompt_file.name, tiny_folder.name)
    assert plan(composed("target.path=org/name")).axes["target"] == "org/name"


def test_every_key_that_a_sweep_turns_is_an_axis_by_its_own_name(composed: Callable[..., DictConfig]) -> None:
    words = ["sampling.top_p=0.5", "sampling.max_tokens=7", "sampling.seed=3", "engine.max_num_seqs=6", "chat=false"]
    axes = plan(composed("policy=exp3", "data.limit=2", "sampling=sample", "rule=gumbel", *words)).axes
    wanted = {
        "top_p": 0.5,
        "max_tokens": 7,
        "seed": 3,
        "max_num_seqs": 6,
        "chat": False,
        "data.limit": 2,
        "data.turns": "turns",
        "rule": "gumbel",
    }
    assert {name: axes.get(name) for name in wanted} == wanted
    assert all(isinstance(value, str | int | float | None) for value in axes.values())


def test_a_drafters_option_does_not_hide_the_length_of_the_texts(composed: Callable[..., DictConfig]) -> None:
    """The suffix drafter calls the size of its store `max_tokens`."""
    axes = plan(composed("drafter=suffix", "drafter.max_tokens=1000", "sampling.max_tokens=7")).axes
    assert (axes["max_tokens"], axes["drafter.max_tokens"]) == (7, 1000)


def test_the_policy_is_an_axis_and_a_study_drafts_always_unless_told(composed: Callable[..., DictConfig]) -> None:
    assert plan(composed()).axes["policy"] == "always"
    assert plan(composed("policy=product")).axes["policy"] == "product"
    swept = {(one.batch, plan(one).axes["policy"]) for one in jobs("-m", "experiment=batch")}
    assert swept == {(batch, name) for batch in (1, 2, 4, 8, 16) for name in ("always", "product")}


def test_every_prompt_has_a_seed_of_its_own_wherever_it_is_decoded(composed: Callable[..., DictConfig]) -> None:
    made = plan(composed("sampling=sample", "sampling.seed=5"))
    assert [one.seed for one in made.params_of(range(2, 5))] == [7, 8, 9]
    assert [one.seed for one in plan(composed("sampling.seed=null")).params_of(range(2))] == [None, None]
