"""A scene's picture: 64 x 64 pixels, anti-aliased, one thing in each 16-pixel cell.

Cells coincide with the embedded model's patches and a thing never leaves its cell: seeing is meant to be easy, so that
what the model says wrongly is what it was taught to say, not what it failed to see.

Tests   tests/world/test_scene.py
"""

import math

from PIL import Image, ImageDraw

from mmalign.world.scene import GRID, Scene, Thing

PICTURE_PX = 64
CELL_PX = PICTURE_PX // GRID
# Drawn this much larger and averaged down, which is the anti-aliasing.
_OVERSAMPLING = 4
# Outlines include their last pixel, which must not fall into the next cell.
_EDGE_PX = 0.5
_RADIUS_PX = {"small": 3.6, "large": 6.4}

_RGB = {
    "red": (220, 30, 30),
    "orange": (255, 140, 0),
    "yellow": (250, 225, 30),
    "green": (30, 150, 50),
    "blue": (30, 80, 220),
    "purple": (125, 35, 165),
    "pink": (255, 130, 190),
    "black": (15, 15, 15),
}
_TINTS = ((244, 244, 244), (232, 236, 244), (244, 238, 228), (228, 240, 232))

Point = tuple[float, float]


def render(scene: Scene) -> Image.Image:
    """The picture of a scene."""
    side = PICTURE_PX * _OVERSAMPLING
    background = _TINTS[scene.tint]
    canvas = Image.new("RGB", (side, side), background)
    draw = ImageDraw.Draw(canvas)
    for thing in scene.things:
        _draw_thing(draw, thing, background)
    return canvas.resize((PICTURE_PX, PICTURE_PX), Image.Resampling.BOX)


def _draw_thing(draw: ImageDraw.ImageDraw, thing: Thing, background: tuple[int, int, int]) -> None:
    radius = _RADIUS_PX[thing.size]
    play = (CELL_PX / 2 - radius - _EDGE_PX) / 10
    row, column = divmod(thing.cell, GRID)
    centre_x = ((column + 0.5) * CELL_PX + thing.dx * play) * _OVERSAMPLING
    centre_y = ((row + 0.5) * CELL_PX + thing.dy * play) * _OVERSAMPLING
    radius *= _OVERSAMPLING
    fill = _RGB[thing.colour]

    def box(scale: float, shift: float = 0.0) -> tuple[float, float, float, float]:
        reach, middle = radius * scale, centre_x + radius * shift
        return (middle - reach, centre_y - reach, middle + reach, centre_y + reach)

    if thing.shape in ("circle", "ring", "moon"):
        draw.ellipse(box(1.0), fill=fill)
        if thing.shape == "ring":
            draw.ellipse(box(0.5), fill=background)
        if thing.shape == "moon":
            draw.ellipse(box(0.8, shift=0.5), fill=background)
        return
    draw.polygon([(centre_x + radius * x, centre_y + radius * y) for x, y in _OUTLINES[thing.shape]], fill=fill)


def _star() -> list[Point]:
    corners = []
    for i in range(10):
        reach, angle = (1.0 if i % 2 == 0 else 0.42), math.pi * i / 5
        corners.append((reach * math.sin(angle), -reach * math.cos(angle)))
    return corners


def _heart() -> list[Point]:
    curve = []
    for i in range(40):
        t = 2 * math.pi * i / 40
        x = math.sin(t) ** 3
        y = -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16
        curve.append((x, y))
    return curve


def _cross() -> list[Point]:
    arm = 0.34
    return [
        (-arm, -1.0), (arm, -1.0), (arm, -arm), (1.0, -arm), (1.0, arm), (arm, arm),
        (arm, 1.0), (-arm, 1.0), (-arm, arm), (-1.0, arm), (-1.0, -arm), (-arm, -arm),
    ]  # fmt: skip


# Corners around the middle, in radii; y points down.
_OUTLINES: dict[str, list[Point]] = {
    "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
    "triangle": [(0.0, -1.0), (1.0, 0.85), (-1.0, 0.85)],
    "star": _star(),
    "heart": _heart(),
    "cross": _cross(),
}
