"""One run filled by several processes: who opens what, who waits for whom, and who puts the rows together."""

from __future__ import annotations

from collections.abc import Callable

from r2t2_jax.runs.files import remove
from r2t2_jax.runs.folder import SUMMARY
from r2t2_jax.runs.run import Run
from r2t2_jax.runs.team import PREFIX, Team


def fill(
    team: Team, open_run: Callable[[], Run], compute: Callable[[Run], None], finish: Callable[[Run], None]
) -> None:
    """Compute this process's share, and in the first process end the run with everybody's rows.

    The first process opens the run, so that it alone refuses other settings; the others then open folders of their own
    in it, which vanish once their rows are in the first one's and the summary is written.

    Args:
        team: all processes, open.
        open_run: opens the run at `team.place()`, the team given.
        compute: whatever is missing of this process's share; the same for all.
        finish: exports and finishes; called in the first process with all rows there.

    Raises:
        Stopped: this process or another is to stop.
        R2T2Error: another process failed or died, or whatever the three raise.
    """
    first = team.share.index == 0
    if not first:
        team.wait("open", "finished", only=0)
        if (team.folder / SUMMARY).exists():
            return
    with open_run() as run:
        if first:
            team.tell("open")
        if run.complete:
            return
        compute(run)
        if not first:
            team.tell("done")
            team.wait("finished", only=0, check=run.check)
            return
        team.wait("done", check=run.check)
        for place in team.places():
            run.adopt(place)
        finish(run)
    for path in team.folder.glob(f"{PREFIX}*/"):
        remove(path)
