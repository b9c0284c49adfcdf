"""The parts of `python -m bench` that measure nothing: layers, tables, pictures, options."""

import json
import sys

import numpy as np
import pytest

import numbaconv
from bench import __main__ as command
from bench import plots, rounding, shapes, sides, tables
from bench.compare import Result, check, measure

# -- shapes ------------------------------------------------------------------------------------------


def test_every_network_has_valid_layers():
    layers = list(shapes.network_layers(shapes.networks()))
    assert len(layers) == len(json.loads(shapes.LAYERS.read_text()))
    assert {layer.N for layer in layers if layer.network in shapes.LARGE} == {4}
    assert {layer.N for layer in layers if layer.network not in shapes.LARGE} == {32}
    assert {layer.N for layer in shapes.network_layers(["tails"], 5)} == {5}


def test_flops_and_extents():
    layer = next(v for v in shapes.network_layers(["resnet50"]) if v.name == "64>64@56 3x3/1")
    assert layer.shapes["dy"] == (4, 64, 56, 56)
    for name in ("y", "dx", "dw"):
        assert layer.flops(name) == 2 * 4 * 64 * 56 * 56 * 64 * 9
    assert layer.flops("db") == 4 * 64 * 56 * 56
    assert shapes.parse_shape("1,8,14,14,8,3,3,2,1,1,8").flops("y") == 2 * 8 * 7 * 7 * 9


@pytest.mark.parametrize("spec", ("1,2,5,7,4,3,2,2x1,2x1,1x2,2", "1,1,4,4,1,7,7,1,3", "2,3,9,9,2,1,1,3"))
def test_least_flops_count_taps_inside_the_image(spec):
    layer = shapes.parse_shape(spec)
    image = np.pad(np.ones((layer.H, layer.W)), [(p, p) for p in layer.padding])
    count = 0
    for oh in range(layer.OH):
        for ow in range(layer.OW):
            top, left = oh * layer.stride[0], ow * layer.stride[1]
            window = image[top :: layer.dilation[0], left :: layer.dilation[1]][: layer.KH, : layer.KW]
            assert window.shape == (layer.KH, layer.KW)
            count += window.sum()
    assert layer.least_flops("y") == 2 * layer.N * layer.F * (layer.C // layer.groups) * count


def test_spec_is_what_parse_shape_takes():
    for layer in [*shapes.random_layers(20, 3), *shapes.tiny_layers()]:
        again = shapes.parse_shape(layer.spec)
        assert again.name == layer.name
        assert again.shapes == layer.shapes
        assert again.spec == layer.spec
    layer = shapes.parse_shape("2,4,7,6,6,3,2,2x1,1x0,1,2")
    assert (layer.stride, layer.padding, layer.dilation, layer.groups) == ((2, 1), (1, 0), (1, 1), 2)
    assert layer.name == "2 of 4>6@7x6 3x2/2x1 pad 1x0 groups 2"


@pytest.mark.parametrize(
    "text, message",
    (
        ("1,2,3", "--shape takes N,C,H,W"),
        ("1,2,3,4,5,6,7,8,9,10,11,12", "--shape takes N,C,H,W"),
        ("1,2,8,8,4,3,x", "got 'x'"),
        ("1,2,8,8,4,3,-3", "got '-3'"),
        ("1,2,8x8,8,4,3,3", "got '8x8'"),
        ("1,2,8,8,4,3,3,0", "start at 1"),
        ("0,2,8,8,4,3,3", "start at 1"),
        ("1,3,8,8,4,3,3,1,1,1,2", "2 groups do not divide"),
        ("1,2,8,2,4,3,3", "larger than the padded image"),
    ),
)
def test_wrong_shapes(text, message):
    with pytest.raises(ValueError, match=message):
        shapes.parse_shape(text)


def test_random_layers_follow_from_the_seed():
    layers = shapes.random_layers(60, 7)
    assert layers == shapes.random_layers(60, 7)
    assert layers[:10] == shapes.random_layers(10, 7)
    assert layers != shapes.random_layers(60, 8)
    assert len(set(layers)) == 60
    for layer in layers:
        assert shapes.FLOPS[0] <= layer.flops("y") <= shapes.FLOPS[1]
    kernels = {extent for layer in layers for extent in (layer.KH, layer.KW)}
    assert kernels == set(range(1, 8))
    assert {layer.stride[0] for layer in layers} == {1, 2, 3}
    assert {"dense", "depthwise and grouped"} <= {layer.kind for layer in layers}
    assert any(layer.padding == (0, 0) for layer in layers)
    assert any(layer.padding[0] != layer.padding[1] for layer in layers)


# -- tables and pictures -----------------------------------------------------------------------------


def test_geometric_mean():
    assert tables.geometric_mean([2, 8]) == pytest.approx(4)
    assert tables.geometric_mean([3]) == pytest.approx(3)
    with pytest.raises(ValueError, match="nothing"):
        tables.geometric_mean([])
    with pytest.raises(ValueError, match="domain|positive"):
        tables.geometric_mean([1, 0])


def test_number():
    values = (0.01234, 0.1234, 1.234, 9.999, 12.34, 99.99, 123.4, 12345)
    texts = ["0.012", "0.12", "1.23", "10.0", "12.3", "100", "123", "12,345"]
    assert [tables.number(value) for value in values] == texts


def make_result(layer, name, ours, theirs=()):
    return Result(layer, name, "direct", 0.0, 1, list(ours), list(theirs))


@pytest.fixture
def results():
    one, two = shapes.network_layers(["lenet5"])
    tail = next(iter(shapes.network_layers(["tails"])))
    return [
        make_result(one, "y", [2e-3, 1e-3, 4e-3], [3e-3, 2e-3, 2e-3]),
        make_result(two, "y", [1e-3], [0.5e-3]),
        make_result(tail, "y", [1e-3], [1e-3]),
        make_result(one, "db", [1e-6], [2e-6]),
    ]


def test_tables(results):
    peak_flops = results[0].layer.flops("y") / 1e-3 * 2
    assert (results[0].ratio, results[0].ratio_of_medians) == (2, 1)
    summary = tables.summary_table(results, peak_flops, "PyTorch").split("\n")
    assert summary[0] == "| set | layers | y | db |"
    assert summary[2] == "| lenet5 | 2 | 1.00, worst 0.50 (6>16@14 5x5/1) | 2.00 |"
    assert summary[3] == "| tails | 1 | 1.00 |  |"
    assert summary[-1].startswith("| **all** | 3 | 1.00, worst 0.50")
    rows = tables.detail_table(results, peak_flops, "PyTorch").split("\n")
    assert rows[2].startswith("| 1>6@28 5x5/1 | y | 1.00 | 2.00 | ")
    assert rows[2].endswith(" | 50 | 25 | 2.00 | 1.00 | 3 |")
    assert rows[-1].endswith(" |  |  | 2.00 | 2.00 | 1 |"), "percent of the multiply-add peak of a sum"
    assert {row.count("|") for row in rows} == {12}
    text = tables.make_report("title", results, peak_flops, "PyTorch", ["note"], True)
    assert text.count("<details>") == text.count("</details>") == 2
    assert text.endswith("\n\nnote")


def test_tables_of_ours_alone(results):
    alone = [make_result(r.layer, r.name, r.ours) for r in results if r.name == "y"]
    peak_flops = alone[0].layer.flops("y") / 1e-3 * 2
    assert tables.summary_table(alone[:1], peak_flops, None).split("\n")[2] == "| lenet5 | 1 | 50 |"
    header, _, row, *_ = tables.detail_table(alone, peak_flops, None).split("\n")
    assert header == "| layer | pass | ms ours | GF/s ours | % of peak ours | rounds |"
    assert row.startswith("| 1>6@28 5x5/1 | y | 1.00 |")


def test_tables_of_further_sides():
    def of_3x3(name, algorithm, direct, winograd, **others):
        seconds = {key: [value] for key, value in others.items()}
        return Result(
            layer, name, algorithm, 0.0, 1, [4e-3], others={"direct": [direct], "winograd": [winograd], **seconds}
        )

    layer, other = shapes.parse_shape("2,16,8,8,16,3,3,1,1"), shapes.parse_shape("1,3,8,8,4,1,1")
    results = [
        of_3x3("y", "winograd", 2e-3, 1e-3, ncnn=8e-3),
        of_3x3("dx", "winograd", 2e-3, 3e-3),
        of_3x3("dw", "direct", 2e-3, 2e-3),
        Result(other, "y", "direct", 0.0, 1, [1e-3], others={"ncnn": [0.5e-3]}),
        make_result(layer, "db", [1e-3]),
    ]
    lines = tables.detail_table(results, 1e12, None).split("\n")
    assert lines[0].startswith(
        "| layer | pass | ms ours | ms direct | ms winograd | auto's choice | ms ncnn | GF/s ours |"
    )
    assert "| y | 4.00 | 2.00 | 1.00 | winograd | 8.00 | " in lines[2]
    assert "| dx | 4.00 | 2.00 | 3.00 | winograd, 50% slower |  | " in lines[3]
    assert "| dw | 4.00 | 2.00 | 2.00 | direct |  | " in lines[4]
    assert "| y | 1.00 |  |  | direct | 0.50 | " in lines[5]
    assert "| db | 1.00 |  |  |  |  | " in lines[6]
    assert len({line.count("|") for line in lines}) == 1
    note = tables.choice_note(results)
    assert "in 1 of 3 passes" in note
    assert f"worst 1.50 ({layer.name} dx)" in note
    assert f"geometric mean {1.5 ** (1 / 3):.2f}" in note
    assert "geometric mean 1.00 of 2 layers" in tables.ncnn_note(results)
    assert tables.choice_note(results[3:]) is tables.ncnn_note(results[4:]) is None


@pytest.mark.parametrize("peer", ("PyTorch", None))
def test_plots(results, peer, tmp_path):
    pytest.importorskip("matplotlib")
    paths = plots.plot_networks(tmp_path / "new", results, 1e11, peer, "title", "NCHW 1 thread")
    assert [path.name for path in paths] == ["lenet5-NCHW-1-thread.png", "tails-NCHW-1-thread.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


# -- sides -------------------------------------------------------------------------------------------


def test_further_sides_take_turns(monkeypatch):
    monkeypatch.setattr("bench.compare.WARM_SECONDS", 0)
    turns = []

    def side(name, *passes):
        return sides.Side(name, {key: lambda: turns.append(name) for key in passes}, None)

    layer = shapes.parse_shape("1,2,4,4,2,3,3")
    others = (side("direct", "y", "dx"), side("ncnn", "y"))
    result = measure(layer, "dx", side("ours", "dx"), side("theirs", "dx"), "auto", 0.0, 4, 60, others)
    assert list(result.others) == ["direct"]
    assert {len(seconds) for seconds in (result.ours, result.theirs, result.others["direct"])} == {4}
    order = list(dict.fromkeys(turns[-3 * result.calls * 2 :]))
    assert order == ["direct", "theirs", "ours"], "the last round walks the sides backwards"
    alone = measure(layer, "y", side("ours", "y"), None, "auto", 0.0, 3, 60, others)
    assert (alone.theirs, list(alone.others)) == ([], ["direct", "ncnn"])
    assert {len(seconds) for seconds in (alone.ours, *alone.others.values())} == {3}


def test_both_sides_of_a_choice():
    for spec, count in (("1,2,6,6,2,3,3", 2), ("1,2,6,6,2,3,3,2", 0), ("1,2,6,6,2,1,1", 0), ("8,32,12,12,32,5,5", 1)):
        layer = shapes.parse_shape(spec)
        both = sides.choice_sides(layer, sides.make_arrays(layer, np.dtype(np.float32)), "NCHW")
        assert [side.name for side in both] == ["direct", "winograd"][:count]
        assert all(list(side.passes) == ["y", "dx", "dw"] for side in both)


NCNN_SPECS = ("2,8,7,9,12,3,3,1,1", "2,4,9,8,6,3,5,2x1,1x2,1x2,2", "1,8,9,9,8,3,3,1,1,1,8", "1,3,5,5,2,1,1")


@pytest.mark.parametrize("spec", NCNN_SPECS)
def test_ncnn_computes_the_same(spec):
    pytest.importorskip("ncnn")
    layer = shapes.parse_shape(spec)
    arrays = sides.make_arrays(layer, np.dtype(np.float32))
    loops = sides.numbaconv_side("loops", layer, arrays, "NCHW", "loops")
    assert check(layer, "y", sides.ncnn_side(layer, arrays, 1), loops) < 1e-5


# -- the command -------------------------------------------------------------------------------------


def test_default_is_all_networks():
    options, layers = command.parse(["--no-torch"])
    assert list(dict.fromkeys(layer.network for layer in layers)) == shapes.networks()
    assert options.passes == ["y", "dx", "dw"]
    assert options.rounds == 20


def test_sets_add_up():
    spec = "1,2,8,8,4,3,3"
    arguments = ["--no-torch", "--network", "lenet5", "--shape", spec, "--random", "2", "--tiny"]
    _, layers = command.parse([*arguments, "--passes", "dw", "y"])
    assert [layer.network for layer in layers] == ["lenet5"] * 2 + ["shapes"] + ["random, seed 0"] * 2 + ["tiny"] * 3


@pytest.mark.parametrize(
    "arguments, message",
    (
        (["--network", "resnet51"], "there is no network 'resnet51': resnet50, "),
        (["--shape", "1,2"], "--shape takes N,C,H,W"),
        (["--random", "-1"], "--random and --batch have to be positive"),
        (["--batch", "0"], "--random and --batch have to be positive"),
        (["--rounds", "0"], "--rounds and --budget have to be positive"),
        (["--budget", "0"], "--rounds and --budget have to be positive"),
        (["--threads", "1", "100000"], "--threads takes 1 to "),
        (["--algorithm", "fast"], "algorithm must be one of "),
        (["--both", "--algorithm", "direct"], "--both is for --algorithm auto"),
        (["--ncnn", "--passes", "dx"], "--ncnn is for pass y in NCHW and float32"),
        (["--ncnn", "--layout", "NHWC"], "--ncnn is for pass y in NCHW and float32"),
        (["--ncnn", "--dtype", "float64"], "--ncnn is for pass y in NCHW and float32"),
        (["--layout", "CHWN"], "invalid choice: 'CHWN'"),
        (["--passes", "z"], "invalid choice: 'z'"),
    ),
)
def test_wrong_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        command.parse([*arguments, "--no-torch"])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_what_is_missing_is_said_in_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(command, "README", tmp_path / "README.md")
    command.README.write_text("no markers")
    for arguments, message in (
        ([], "pip install 'numbaconv[bench]', or give --no-torch"),
        (["--no-torch", "--ncnn"], "--ncnn needs ncnn: pip install ncnn"),
        (["--no-torch", "--plot", "figures"], "--plot needs matplotlib"),
        (["--no-torch", "--write"], "<!-- bench:compare: begin -->"),
    ):
        with pytest.raises(SystemExit):
            command.parse(arguments)
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_command_line_names_no_files():
    arguments = ["--network", "vgg16", "--json", "/a/b", "--write", "--plot=/c", "--threads", "1", "2"]
    assert command.command_line(arguments) == "python -m bench --network vgg16 --write --threads 1 2"


def test_json(results):
    class Machine:
        flops = 1e11

    entry = json.loads(json.dumps(command.to_json(results, Machine, 2)))
    assert entry["threads"] == 2
    assert entry["results"][0]["ratio"] == 2
    assert entry["results"][0]["seconds_ours"] == [2e-3, 1e-3, 4e-3]
    assert shapes.parse_shape(entry["results"][0]["shape"]).shapes == results[0].layer.shapes


def test_whole_run_of_ours_alone(monkeypatch, capsys, tmp_path, set_threads):
    set_threads(1)  # what the command changes too, and the fixture undoes
    readme, data = tmp_path / "README.md", tmp_path / "result.json"
    readme.write_text("before\n<!-- bench:compare: begin -->\n<!-- bench:compare: end -->\nafter\n")
    monkeypatch.setattr(command, "README", readme)
    # All kernels would take half a minute; and not every copy of the sources is a Git checkout.
    monkeypatch.setattr(command, "compile_kernels", lambda dtype: "nothing compiled")
    monkeypatch.setattr(command.report, "footer", lambda packages: "a machine")
    monkeypatch.setattr(command.Peak, "check", lambda *arguments: None)
    # It is for good, and tests of arrays of gigabytes that nobody touches would have them all in memory.
    kept = []
    monkeypatch.setattr(command, "keep_freed_memory", lambda: kept.append(True))
    arguments = ["--shape", "1,3,8,8,4,3,3", "--no-torch", "--rounds", "2", "--threads", "1", "--passes", "y", "db"]
    monkeypatch.setattr(sys, "argv", ["bench", *arguments, "--json", str(data), "--write"])
    command.main()
    assert kept == [True]
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    assert "| 1 of 3>4@8 3x3/1 | y |" in text and "<details>" in text
    assert str(tmp_path) not in text
    assert "| 1 of 3>4@8 3x3/1 | db |" in capsys.readouterr().out
    (run,) = json.loads(data.read_text())["runs"]
    assert [len(result["seconds_ours"]) for result in run["results"]] == [2, 2]
    # Beside auto, in the layer that has the choice and in one that has not.
    arguments = ["--shape", "1,3,8,8,4,3,3", "--shape", "1,3,8,8,4,2,2", *arguments[2:-3], "--passes", "y", "--both"]
    monkeypatch.setattr(sys, "argv", ["bench", *arguments, "--json", str(data)])
    command.main()
    output = capsys.readouterr().out
    assert "| ms ours | ms direct | ms winograd | auto's choice |" in output
    assert "of 1 passes that have the choice" in output
    (run,) = json.loads(data.read_text())["runs"]
    one, two = run["results"]
    assert len(one["seconds_direct"]) == len(one["seconds_winograd"]) == 2
    assert "seconds_direct" not in two


# -- rounding ----------------------------------------------------------------------------------------


def test_forced_variant():
    def explained():
        plan = numbaconv.explain((2, 64, 16, 16), (8, 64, 3, 3), padding=1, algorithm="winograd").forward
        return str(plan).partition(";")[0]

    before = explained()
    for m in (2, 4):
        with rounding.forced_variant(m):
            assert f"F({m} x {m}, 3 x 3)" in explained()
    assert explained() == before


def test_rounding_of_one_layer():
    errors = rounding.forward_errors(16, False)
    assert list(errors) == ["direct", "F(2x2, 3x3)", "F(4x4, 3x3)"]
    assert len(set(errors.values())) == 3
    for values in (errors, rounding.weight_grad_errors(8)):
        assert 0 < max(values.values()) <= rounding.BOUND * values["direct"]
    for spec, names in (("2,64,28,28,64,5,5,1,2", ["y", "dx", "dw"]), ("2,3,112,112,64,11,11,4,2", ["y", "dw"])):
        others = rounding.other_errors(shapes.parse_shape(spec), False)
        assert list(others) == names
        assert all(values["auto"] > values["direct"] > 0 for values in others.values())


def test_rounding_report(monkeypatch, capsys, tmp_path):
    readme, picture = tmp_path / "README.md", tmp_path / "new" / "rounding.png"
    readme.write_text("before\n<!-- bench.rounding: begin -->\n<!-- bench.rounding: end -->\nafter\n")
    errors = {"direct": 2e-7, "F(2x2, 3x3)": 1e-7, "F(4x4, 3x3)": 5e-7}
    monkeypatch.setattr(rounding, "README", readme)
    monkeypatch.setattr(rounding, "forward_errors", lambda C, torch: errors)
    monkeypatch.setattr(rounding, "weight_grad_errors", lambda extent: {"direct": 1e-7, "winograd": 2e-7})
    others = {"y": {"direct": 3e-7, "auto": 6e-7}, "dw": {"direct": 2e-7, "auto": 9e-7}}
    monkeypatch.setattr(rounding, "other_errors", lambda layer, torch: others)
    monkeypatch.setattr(rounding.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(rounding.report, "footer", lambda packages: f"a machine with {', '.join(packages)}")
    rounding.main(["--write", "--plot", str(picture)])
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    assert "| 2048 | 2e-07 | 1e-07, 0.5x | 5e-07, 2.5x |" in text
    assert "| 7x7 | 1e-07 | 2e-07, 2.0x | F(3x3, 4x4) |" in text
    assert "| 2 of 3>64@224 11x11/4 pad 2 | dw | 2e-07 | 9e-07, 4.5x | F(3x3, 4x4) on 4x4 maps |" in text
    assert text.count("\n| 32 |") == 0, "a row that only the picture has"
    assert "Made by `python -m bench.rounding --write` on a machine with NumPy, Numba\n" in text
    assert not picture.exists()
    assert capsys.readouterr().err.count("pip install 'numbaconv[bench]'") == 2


def test_rounding_picture(tmp_path):
    pytest.importorskip("matplotlib")
    errors = {C: {"direct": C * 1e-8, "F(4x4, 3x3)": C * 2e-8, "PyTorch": 1e-7} for C in (16, 32)}
    rounding.draw(tmp_path / "new" / "rounding.png", errors)
    assert (tmp_path / "new" / "rounding.png").read_bytes().startswith(b"\x89PNG")
