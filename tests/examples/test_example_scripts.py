"""The example scripts run and end in a picture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import choose_settings
import demo
import first_order
import kepler
import layers
import oscillator
import parameter_sweep
import pytest
import recover_rates
import serve_odenet
import torch
import train_distributed
import train_odenet
from odenet import pictures
from odenet.data import digit_scans, digit_split
from odenet.model import build_model, build_model_without_block, find_block
from odenet.pictures import layers as block_layers
from odenet.progress import PlainProgress, progress_bar
from odenet.training import relative_change


def assert_picture(path: Path) -> None:
    """A PNG file that holds something."""
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG"), path
    assert len(content) > 10_000, path


@pytest.mark.parametrize("script", [first_order, oscillator, kepler, layers, parameter_sweep, recover_rates])
def test_small_scripts(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--output-dir", str(tmp_path / "new" / "folder")]) == 0
    picture = tmp_path / "new" / "folder" / f"{script.__name__}.png"
    assert_picture(picture)
    assert str(picture) in capsys.readouterr().out


def test_first_order_is_exact(tmp_path: Path) -> None:
    assert first_order.run(tmp_path)[1] < 1e-12


def test_kepler_keeps_its_energy(tmp_path: Path) -> None:
    last = kepler.run(tmp_path)[1]
    assert last["mclachlan4"] < 2e-3 < 10 * last["mclachlan4"] < last["dopri5"]


def test_oscillator_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, there, back = oscillator.run(tmp_path)
    assert there < 1e-5
    assert back < 1e-5
    oscillator.main(["--output-dir", str(tmp_path)])
    assert "Times in no order are refused" in capsys.readouterr().out


def test_parameter_sweep_finds_order_and_chaos() -> None:
    """Periods of 1 and 2 beats and chaos, where the literature has them (Baker and Gollub, Chaotic Dynamics)."""
    _, speeds = parameter_sweep.sweep(51)  # drives 1.00, 1.01, ..., 1.50
    different = [len(x.mul(1e3).round().unique()) for x in speeds]
    assert [different[i] for i in (3, 7)] == [1, 2]
    assert different[15] > parameter_sweep.LOOK // 2
    assert [bool(parameter_sweep.repeats(speeds)[i]) for i in (3, 7, 15)] == [True, False, False]


def test_layers_are_convolutional(tmp_path: Path) -> None:
    _, states = layers.run(tmp_path)
    assert states.shape == (5, 1, 3, 8, 8)
    assert not torch.allclose(states[0], states[2])
    assert layers.build_model()(torch.zeros(2, 1, 8, 8)).shape == (2, 1, 8, 8)


def test_demo_with_one_seed_and_two_epochs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--output-dir", str(tmp_path), "--epochs", "2", "--seeds", "1"]) == 0
    for name in ("first_order", "oscillator", "training", "layers"):
        assert_picture(tmp_path / f"{name}.png")
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("ODENet", "no block", "logistic", "mean", "layers.png"))
    seeds = json.loads((tmp_path / "figures.json").read_text())["seeds"]
    assert list(seeds) == ["1"]
    assert seeds["1"]["odenet"] > 0.5
    assert seeds["1"]["logistic_regression"] > 0.9
    assert seeds["1"]["nfe_forward"] >= 6
    assert seeds["1"]["block_moved"] > 0


def test_demo_fails_below_its_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = demo.History([1.0], [0.9], [0.96], [1.0], [1.0])
    monkeypatch.setattr(demo.first_order, "run", lambda folder: (folder, 0.0))
    monkeypatch.setattr(demo.oscillator, "run", lambda folder: (folder, 0.0, 0.0))
    row = demo.Row(0.96, 0.9, 0.9, 1.0, 1.0, 1.0)
    monkeypatch.setattr(demo, "run_seed", lambda *args, **kwargs: (row, history))
    assert demo.main(["--output-dir", str(tmp_path)]) == 1
    row.odenet = 0.98
    assert demo.main(["--output-dir", str(tmp_path)]) == 0


@pytest.mark.parametrize("script", [first_order, oscillator, layers, demo])
@pytest.mark.parametrize("below", ["", "below"])
def test_a_file_is_no_output_folder(
    script: ModuleType, below: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as caught:
        script.main(["--output-dir", str(tmp_path / "file" / below)])
    assert caught.value.code == 2
    assert f"{tmp_path / 'file'} is a file, not a folder" in capsys.readouterr().err


def test_demo_seeds_have_32_bits(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        demo.main(["--seeds", "0", str(2**32)])
    assert "at most 4294967295" in capsys.readouterr().err


@pytest.mark.parametrize("epochs", [1, 2, 30])
def test_training_curves_show_every_epoch(epochs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a single one, which makes no line; and epochs are whole numbers."""
    figures = []
    monkeypatch.setattr(pictures, "save", lambda figure, path: figures.append(figure))
    pictures.draw_curves({"seed 0": demo.History(*[[0.5] * epochs for _ in range(5)])}, tmp_path / "training.png")
    pictures.plt.close(figures[0])
    for axes in figures[0].axes:
        assert all(line.get_marker() == "." for line in axes.lines if len(line.get_xdata()))
        assert all(float(tick).is_integer() for tick in axes.get_xticks())


def test_real_mnist_trains(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shared / "data" / "mnist"
    full = train_odenet.load_mnist_data(folder)
    part = type(full)(full.x_train[:2000], full.y_train[:2000], full.x_test[:500], full.y_test[:500])
    monkeypatch.setattr(train_odenet, "load_mnist_data", lambda folder: part)
    flags = ["--data", "mnist", "--data-dir", str(folder), "--epochs", "2", "--output-dir", str(tmp_path)]
    assert train_odenet.main(flags) == 0
    assert_picture(tmp_path / "training.png")
    assert_picture(tmp_path / "layers.png")
    assert json.loads((tmp_path / "training.json").read_text())["history"]["test_accuracy"][-1] > 0.8


def test_choice_of_settings_never_sees_a_test_image() -> None:
    x, y = digit_scans()
    test_images = {tuple(x[i].tolist()) for seed in (0, 1, 2) for i in digit_split(y, seed)[1]}
    _, data = next(choose_settings.folds(1))
    assert len(data.x_train) + len(data.x_test) == 917
    used = {tuple(image) for part in (data.x_train, data.x_test) for image in part.tolist()}
    assert not used & test_images


def test_models() -> None:
    torch.manual_seed(0)
    model = build_model(pixels=64)
    assert model(torch.rand(4, 64)).shape == (4, 10)
    assert find_block(model) is not None
    assert block_layers(model, torch.rand(4, 64)).shape == (5, 4, 32)
    plain = build_model_without_block(pixels=64)
    assert plain(torch.rand(4, 64)).shape == (4, 10)
    assert find_block(plain) is None
    with pytest.raises(ValueError, match="build_model"):
        block_layers(plain, torch.rand(4, 64))


def test_relative_change() -> None:
    before = [torch.tensor([3.0]), torch.tensor([4.0])]
    assert relative_change(before, [torch.tensor([3.0]), torch.tensor([3.0])]) == 0.2


def test_progress_without_tqdm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    bar = progress_bar(20, 0, "training")
    assert isinstance(bar, PlainProgress)
    for _ in range(20):
        bar.update()
    bar.close()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[-1].startswith("training: 100 %")


@pytest.mark.compiled
@pytest.mark.slow
def test_an_odenet_is_served_without_its_source(tmp_path: Path) -> None:
    """In a process of its own: torch.compile cannot trace the type checks of this one."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, serve_odenet.__file__, "--output-dir", str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    accuracy = float(done.stdout.split("without torchivp: test accuracy ")[1].split("%")[0])
    difference = float(done.stdout.split("Largest difference from the eager model: ")[1])
    assert accuracy > 80
    assert difference < 1e-4
    assert (tmp_path / "odenet.pt2").is_file()


def test_distributed_training_in_one_process(capsys: pytest.CaptureFixture[str]) -> None:
    assert train_distributed.main(["--epochs", "1", "--batch-size", "256"]) == 0
    assert "Test accuracy after 1 epochs in 1 process(es): " in capsys.readouterr().out


def test_distributed_training_in_two_processes() -> None:
    """The command of the README; --standalone takes a free port."""
    script = Path(train_distributed.__file__)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    run = subprocess.run([*command, "--epochs", "1"], env=env, capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("Test accuracy after 1 epochs in 2 process(es): ") == 1
