"""The figure, drawn back to front."""

from PIL import Image

from deployments.embedded.training.drawing import (
    CARTOON,
    FACE_X,
    Look,
    Sketch,
    arc,
    bump,
    darker,
    light_field,
    lighter,
    mirrored,
    shifted,
    spline,
    tinted,
)
from deployments.embedded.training.hair import draw_back_hair, draw_front_hair
from deployments.embedded.training.head import (
    draw_beard,
    draw_brows,
    draw_ears,
    draw_eyes,
    draw_face,
    draw_glasses,
    draw_mouth,
    draw_nose,
)
from deployments.embedded.training.portrait import NAMED_COLOURS, Portrait


def render(portrait: Portrait, size: int = 256, look: Look = CARTOON) -> tuple[Image.Image, Image.Image]:
    """The picture (RGB) and the person's alpha (L)."""
    sketch = Sketch(portrait, size, look)
    draw_figure(sketch)
    return sketch.picture.resize((size, size), Image.Resampling.BOX), sketch.alpha.resize(
        (size, size), Image.Resampling.BOX
    )


def draw_figure(sketch: Sketch) -> None:
    draw_back_hair(sketch)
    draw_body(sketch)
    draw_ears(sketch)
    face = draw_face(sketch)
    draw_beard(sketch, face)
    draw_eyes(sketch)
    draw_nose(sketch)
    draw_mouth(sketch)
    draw_front_hair(sketch)
    draw_brows(sketch)
    draw_glasses(sketch)


def draw_body(sketch: Sketch) -> None:
    person = sketch.person
    broad = 82 if person.gender == "man" else 68
    neck = 21 if person.gender == "man" else 16
    depth = sketch.look.contrast
    skin_mask = sketch.mask(
        spline(shifted(mirrored([(0, 140), (neck, 142), (neck, 186), (neck + 26, 206), (0, 244)]), FACE_X, 0)),
        head=False,
    )
    field = light_field(sketch, FACE_X, 190, 60, 70, 0.8 * depth)
    field -= 0.38 * depth * bump(FACE_X - 3, 177, 30, 12)
    sketch.fill(skin_mask, tinted(person.skin, field))
    draw_clothes(sketch, broad, neck)


def draw_clothes(sketch: Sketch, broad: float, neck: float) -> None:
    person = sketch.person
    colour = NAMED_COLOURS[person.clothes_name]
    if person.clothes_name == "black":
        colour = (46, 46, 52)
    dip = {"t-shirt": 208, "v-neck": 228, "shirt": 216, "hoodie": 206, "blazer": 236}[person.clothes]
    shoulders = [
        (0.0, float(dip)),
        (neck * 0.7, dip - (14 if person.clothes == "v-neck" else 6)),
        (neck + 5.0, 190.0),
        (broad * 0.62, 203.0),
        (broad * 0.92, 214.0),
        (broad + 12.0, 240.0),
        (broad + 18.0, 276.0),
        (0.0, 280.0),
    ]
    torso = sketch.mask(spline(shifted(mirrored(shoulders), FACE_X, 0)), head=False)
    depth = sketch.look.contrast
    field = light_field(sketch, FACE_X, 236, broad + 30, 66, depth) + 0.10 * bump(FACE_X - 40, 214, 26, 12)
    field -= 0.22 * (bump(FACE_X + broad * 0.72, 256, 7, 30) + bump(FACE_X - broad * 0.72, 256, 7, 30))
    sketch.fill(torso, tinted(colour, field, 0.0))
    trim = darker(colour, 0.28) if sum(colour) > 150 else lighter(colour, 0.16)
    if person.clothes == "t-shirt":
        sketch.stroke(shifted(arc(0, 189, neck + 5, 20, 8, 172), FACE_X, 0), trim, 3.2, head=False)
    elif person.clothes == "v-neck":
        sketch.stroke([(FACE_X - neck - 4, 192), (FACE_X, 229), (FACE_X + neck + 4, 192)], trim, 3.2, head=False)
    elif person.clothes == "hoodie":
        hood = [(neck - 2, 186), (neck + 15, 186), (neck + 20, 200), (10, 224), (2, 214), (neck - 3, 198)]
        for side in (-1, 1):
            flap = spline([(FACE_X + side * x, float(y)) for x, y in hood])
            sketch.fill(sketch.mask(flap, head=False), tinted(colour, field + 0.06, 0.0))
            sketch.stroke([(FACE_X + side * 9, 222), (FACE_X + side * 10, 250)], trim, 2.4, head=False)
    else:
        draw_collar(sketch, neck, trim)


def draw_collar(sketch: Sketch, neck: float, trim: tuple[int, int, int]) -> None:
    person = sketch.person
    colour = NAMED_COLOURS[person.clothes_name]
    blazer = person.clothes == "blazer"
    if blazer:
        inner: list[tuple[float, float]] = [(FACE_X - neck - 3, 194), (FACE_X + neck + 3, 194), (FACE_X, 262)]
        sketch.fill(sketch.mask(inner, head=False), (236, 236, 238))
        sketch.shape_body([(FACE_X - neck + 2, 196), (FACE_X + neck - 2, 196), (FACE_X, 224)], darker(person.skin, 0.1))
        lapel = darker(colour, 0.2) if sum(colour) > 150 else lighter(colour, 0.14)
        for side in (-1, 1):
            points = [(neck - 1, 186), (neck + 14, 206), (neck + 8, 224), (4, 258), (0, 256), (neck - 1, 206)]
            sketch.shape_body([(FACE_X + side * x, float(y)) for x, y in points], lapel)
        return
    collar = lighter(colour, 0.22) if sum(colour) < 620 else darker(colour, 0.1)
    sketch.stroke([(FACE_X, 218), (FACE_X, 258)], trim, 1.6, head=False)
    for side in (-1, 1):
        points = [(neck - 2, 182), (neck + 12, 196), (neck - 1, 220), (1, 212)]
        sketch.shape_body([(FACE_X + side * x, float(y)) for x, y in points], collar)
        sketch.stroke([(FACE_X + side * x, float(y)) for x, y in points[1:]], trim, 1.3, head=False)
