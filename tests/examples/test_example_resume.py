"""A training that was interrupted and resumed ends with the same numbers, bit for bit, as one that ran through."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import odenet.training
import pytest
import torch
import train_odenet
from odenet.checkpoint import CheckpointError, load_checkpoint, rng_state, save_checkpoint, set_rng_state
from odenet.data import Data, load_digits_data
from odenet.progress import PlainProgress
from odenet.training import Settings, Training, train

SETTINGS = Settings(epochs=4, tol=1e-2, batch_size=50, seed=3)


@pytest.fixture(scope="module")
def data() -> Data:
    """A small part of the digits: four batches of 50, and a last one of a single image, which is left out."""
    full = load_digits_data(seed=3)
    return Data(full.x_train[:201], full.y_train[:201], full.x_test[:100], full.y_test[:100])


class InterruptedProgress(PlainProgress):
    """A bar during which Ctrl-C is pressed at a given step."""

    def __init__(self, step: int):
        super().__init__(total=10**9, initial=0, desc="")
        self.step = step

    def update(self, n: int = 1) -> None:
        """Counts, and interrupts."""
        super().update(n)
        if self.done == self.step:
            raise KeyboardInterrupt


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The next training is interrupted in this step."""
    monkeypatch.setattr(odenet.training, "progress_bar", lambda *args: InterruptedProgress(step))


def test_interrupted_in_the_middle_of_an_epoch(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    through = Training(SETTINGS, data)
    assert through.steps_per_epoch == 4
    train(through, progress=False)

    path = tmp_path / "checkpoint.pt"
    stopped = Training(SETTINGS, data)
    with monkeypatch.context() as patch:
        interrupt_at(patch, step=10)  # the second step of the third epoch
        with pytest.raises(KeyboardInterrupt):
            train(stopped, checkpoint=path)
    torch.randn(17)  # whatever happened in between
    resumed = Training(SETTINGS, data)
    resumed.load_state_dict(load_checkpoint(path))
    assert resumed.epoch == 2
    train(resumed, checkpoint=path, progress=False)

    assert resumed.history == through.history
    for name, value in through.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert torch.equal(through.shuffler.get_state(), resumed.shuffler.get_state())
    ours, theirs = (t.optimizer.state_dict()["state"] for t in (resumed, through))
    assert all(torch.equal(ours[i][key], theirs[i][key]) for i in theirs for key in theirs[i])
    assert resumed.scheduler.get_last_lr() == through.scheduler.get_last_lr()


def test_training_learns_and_counts(data: Data) -> None:
    history = train(Training(Settings(epochs=8, tol=1e-2, batch_size=50), data), progress=False)
    assert history.loss[-1] < 0.5 * history.loss[0]
    assert history.test_accuracy[-1] > 0.6
    assert min(history.nfe_forward) >= 6
    assert min(history.nfe_backward) >= 6
    assert len(history.loss) == len(history.nfe_backward) == 8


@pytest.mark.parametrize(("gradient", "method"), [("direct", "tsit5"), ("adjoint", "dopri5"), ("discrete", "rk4")])
def test_other_gradients_and_methods_learn(gradient: str, method: str, data: Data) -> None:
    settings = Settings(epochs=3, tol=1e-2, batch_size=50, gradient=gradient, method=method)
    history = train(Training(settings, data), progress=False)
    assert history.loss[-1] < history.loss[0]


def test_checkpoint_refuses_other_settings(data: Data) -> None:
    state = Training(SETTINGS, data).state_dict()
    with pytest.raises(ValueError, match="the checkpoint was made with"):
        Training(Settings(epochs=5), data).load_state_dict(state)


def draw() -> tuple[float, float, float]:
    """One number from each global generator."""
    return float(torch.rand(())), np.random.random(), random.random()  # noqa: NPY002


def test_random_generators_are_put_back(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.pt", {"rng": rng_state()})
    first = draw()
    set_rng_state(load_checkpoint(tmp_path / "c.pt")["rng"])
    assert draw() == first


def test_a_checkpoint_is_whole_or_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"epoch": 1})
    with pytest.raises(AttributeError):
        save_checkpoint(path, {"epoch": 2, "cannot be pickled": lambda: None})
    assert load_checkpoint(path)["epoch"] == 1


def test_bad_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    with pytest.raises(CheckpointError, match=r"no such checkpoint.*leave --resume out"):
        load_checkpoint(path)
    save_checkpoint(path, {"epoch": 1})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_checkpoint(path)
    torch.save({"epoch": 1}, path)
    with pytest.raises(CheckpointError, match=r"not a checkpoint of train_odenet\.py"):
        load_checkpoint(path)


def test_the_command_line_resumes_after_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--epochs", "2", "--tol", "1e-2", "--batch-size", "300", "--seed", "5"]
    assert train_odenet.main([*flags, "--output-dir", str(tmp_path / "through")]) == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, step=6)
        assert train_odenet.main([*flags, "--output-dir", str(tmp_path / "stopped")]) == 130
    checkpoint = str(tmp_path / "stopped" / "checkpoint.pt")
    command = f"python examples/train_odenet.py --resume {checkpoint} --output-dir {tmp_path / 'stopped'}\n"
    assert f"Stopped. Go on with: {command}" in capsys.readouterr().err

    assert train_odenet.main(["--resume", checkpoint, "--lr", "0.5"]) == 1
    assert "--lr 0.5 contradicts the checkpoint" in capsys.readouterr().err

    assert train_odenet.main(["--resume", checkpoint, "--output-dir", str(tmp_path / "stopped")]) == 0
    assert "Going on from" in capsys.readouterr().out
    through, stopped = (json.loads((tmp_path / n / "training.json").read_text()) for n in ("through", "stopped"))
    assert through == stopped
    first, second = (torch.load(tmp_path / n / "checkpoint.pt")["model"] for n in ("through", "stopped"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_way_to_go_on_names_what_the_checkpoint_does_not_hold() -> None:
    flags = ["--data", "mnist", "--data-dir", "my data", "--device", "cpu:0", "--checkpoint", "c.pt", "--seed", "3"]
    command = train_odenet.how_to_go_on(train_odenet.parser().parse_args(flags))
    assert command == "python examples/train_odenet.py --resume c.pt --data-dir 'my data' --device cpu:0"


def test_stopped_before_anything_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is nothing of this run to go on from: an older checkpoint is not named."""
    (tmp_path / "checkpoint.pt").write_bytes(b"of another run")

    def interrupted(seed: int) -> Data:
        raise KeyboardInterrupt

    monkeypatch.setattr(train_odenet, "load_digits_data", interrupted)
    assert train_odenet.main(["--output-dir", str(tmp_path)]) == 130
    error = capsys.readouterr().err
    assert "Stopped. Nothing was written yet." in error
    assert "--resume" not in error


@pytest.mark.parametrize("flags", [["--method", "rk5"], ["--gradient", "discreet"], ["--data-dir", "nowhere"]])
def test_an_existing_checkpoint_survives_bad_flags(flags: list[str], tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"of another run")
    assert train_odenet.main([*flags, "--output-dir", str(tmp_path)]) == 1
    assert (tmp_path / "checkpoint.pt").read_bytes() == b"of another run"


def test_the_folder_of_a_checkpoint_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "c.pt"
    save_checkpoint(path, {"epoch": 1})
    assert load_checkpoint(path)["epoch"] == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--epochs", "0"], "got '0'; write a whole number of at least 1"),
        (["--batch-size", "1"], "write a whole number of at least 2"),
        (["--tol", "-1"], "got '-1'; write a number above 0"),
        (["--lr", "fast"], "got 'fast'; write a number above 0"),
        (["--device", "toaster"], "'toaster' cannot be used here"),
        (["--device", "meta"], "'meta' cannot be used here"),
        (["--seed", "4294967296"], "at least 0 and at most 4294967295"),
        (["--seed", "9" * 5000], "write a whole number of at least 0"),
        (["--output-dir", __file__], "is a file, not a folder"),
        (["--data", "letters"], "choose from"),
    ],
)
def test_bad_flags(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        train_odenet.main(flags)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "mnist"], "--data mnist needs --data-dir DIR"),
        (["--data-dir", "nowhere"], "Write --data mnist, or leave --data-dir out"),
        (["--data", "mnist", "--data-dir", "nowhere"], "train-images-idx3-ubyte: there is no such file"),
        (["--method", "tsit6"], "tsit5"),
        (["--gradient", "discreet"], "discrete"),
        (["--resume", "nowhere.pt"], "there is no such checkpoint"),
    ],
)
def test_errors_end_with_a_message(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_odenet.main([*flags, "--output-dir", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "error: " in error
    assert message in error
