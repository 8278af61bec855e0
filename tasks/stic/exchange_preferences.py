"""preferences -> the same with both answers exchanged."""

from pipeline_lib.methods.stic.tables import PREFERENCES
from pipeline_lib.store import ArtifactRef
from tasks.stage import Work, stage


@stage(version=1)
def exchange_preferences(work: Work, preferences: ArtifactRef) -> None:
    """Prefer what is dis-preferred, for the control; `rejected_by` still says how the worse answer was made."""
    from pipeline_lib.methods.stic.preferences import exchange

    work.write(PREFERENCES, exchange(work.read(preferences, "preferences")))
