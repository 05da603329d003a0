"""What an edit will take, said before its first pixel is encoded."""

from __future__ import annotations

from pathlib import Path

from vgen.attention.store import Place
from vgen.diffusion.frames import counted
from vgen.methods import Recipe, name_of
from vgen.methods._edit_session import EditSession
from vgen.methods._editing import Editing, Recording


def plan(session: EditSession, recipe: Recipe) -> str:
    """What will be done, and what it will hold in memory; refuses what cannot fit."""
    assert isinstance(recipe, Editing)
    one_by_one = session.words.replaces
    windows = recipe.cross_window(one_by_one), recipe.amplifies_in(one_by_one)
    words = [f"instruction: {session.wish.instruction}"]
    if not recipe.instructed:
        words = session.words.previews(*windows, recipe.blends())
    way = "all the way" if recipe.along_pictures else "forth and back"
    structure = session.fields.keys() - {"source"}
    beside = [f"a ControlNet beside the UNet, {way}"] if structure else []
    line = "; ".join(
        [f"{name_of(recipe)}: {_frames(session, recipe)}, {session.num_steps} steps", *beside, *words]
    )
    if isinstance(recipe, Recording):
        store, need = recipe.store, recipe.store_bytes(session)
        free, held = _free_bytes(), store.in_memory(need)
        if store.place is Place.CPU and free is not None and held > 0.9 * free:
            raise ValueError(
                f"the inversion's attention needs {held / 2**30:.1f} GiB and {free / 2**30:.1f} GiB of "
                "memory are free; "
                f"set method.store.max_memory_gb={max(0.1, 0.8 * free / 1e9):.1f} (the rest goes to disk) "
                "or method.store.place=disk, "
                "or use fewer num_frames or sampling.num_steps, or a lower method.store.max_queries"
            )
        line += f"; attention kept: {need / 2**20:.0f} MiB ({_placed(store.place, held, need)})"
    return line


def _placed(place: Place, held: int, need: int) -> str:
    if held in (0, need):
        return place.value if held else Place.DISK.value
    return f"{held / 2**20:.0f} {place.value}, {(need - held) / 2**20:.0f} disk"


def _frames(session: EditSession, recipe: Editing) -> str:
    if recipe.frame_by_frame:
        return f"{counted(session.num_frames)} one by one"
    return session.frames.told(session.num_frames)


def _free_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)
