"""What a setting such as `data` or `prompts` names: "atlas", or else a file, a folder or a Hub
id (labkit.data).
"""

from labkit import data
from labkit.atlas import styles, text

ATLAS = 12_000  # demonstrations that "atlas" stands for where nobody asks for more


def load_demos(source: str, limit: int = 0, fits=None) -> list[data.Demo]:
    """Demonstrations of the atlas, or of a file, folder or Hub id. limit, fits: see data.load."""
    if source == "atlas":
        return data.cut(styles.demos(n=max(ATLAS, limit)), limit)
    return data.load_demos(source, limit, fits)


def load_prompts(source: str, limit: int = 0, fits=None, enough: int = 0) -> list[str]:
    """The atlas's prompts for feedback, or those of a file, folder or Hub id. limit, fits, enough:
    see data.load.
    """
    if source == "atlas":
        return data.cut(styles.feedback_prompts(), limit)
    return data.load_prompts(source, limit, fits, enough)


def load_text(source: str, enough: int = 0) -> list[str]:
    """The documents that the atlas's base reads, or those of a file, folder or Hub id. enough: see
    data.load_text.
    """
    return list(text.corpus()) if source == "atlas" else data.load_text(source, enough)
