"""What pictures became on the grid is said where their size changed."""

import numpy as np

from fsfast.commands.fitted import Fitted
from fsfast.images.grid import Grid, to_grid_image


def images(*sizes):
    for i, (height, width) in enumerate(sizes):
        pixels = np.zeros((height, width, 3), np.uint8)
        yield to_grid_image(pixels, Grid(64, 64, "crop"), name=f"{i}.png")


def said(*sizes):
    fitted = Fitted()
    assert sum(image is not None for image in fitted.watch([None, *images(*sizes)])) == len(sizes)
    return fitted.lines()


def test_nothing_where_no_size_changed():
    assert said() == said((64, 64)) == said((64, 64), (64, 64)) == []


def test_one_image():
    (line,) = said((90, 120))
    assert line == (
        "On the grid: 0.png (90×120, height × width): scaled to 64×85, the middle 64×64 kept, bicubic"
    )


def test_several_images():
    (line,) = said((64, 64), (90, 120), (70, 64))
    assert line.startswith(
        "On the grid: 2 of 3 images were not 64×64; 1.png (90×120, height × width): scaled"
    )


def test_both_commands_say_it(fs, tmp_path):
    from PIL import Image

    Image.new("RGB", (120, 90)).save(tmp_path / "wide.png")
    for command in (("encode", "-o", tmp_path / "out.npz"), ("certify", "-n", 2)):
        code, out, _ = fs(command[0], "demo", tmp_path / "wide.png", *command[1:], "--n0", 1)
        assert code == 0
        assert "wide.png (90×120, height × width): scaled to 64×85, the middle 64×64 kept, bicubic" in out
