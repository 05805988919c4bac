"""What is known of image data: a read-only look, which column plays which role, findings."""

from typing import Literal

from pydantic import Field

from moatelier.contracts.base import Contract
from moatelier.contracts.columns import ImageColumns
from moatelier.contracts.dataset import DataFindings
from moatelier.contracts.profile import RowProblem


class ImageProfile(Contract):
    """A read-only look at images, before anything is decided."""

    file: str
    name: str
    format: Literal["folder", "zip", "table"]
    images: int
    parts: tuple[str, ...]
    """Folders such as `train` and `test` that divide the images already; none where classes come first."""
    labels: dict[str, int]
    """Empty where a table with a label column or folders of classes are missing."""
    tables: tuple[str, ...]
    """Tables within, such as `index.csv`."""
    columns: ImageColumns | None
    """What the columns of the table seem to be."""
    headers: tuple[str, ...] = ()
    """All columns of the table."""
    looked_at: int
    """Images that were decoded for the fields below, spread over all."""
    sizes: dict[str, float]
    """Shorter side in pixels: min, p50, p95, max."""
    problems: tuple[RowProblem, ...] = ()

    @property
    def modality(self) -> str:
        """What the file is data of."""
        return "vision"

    @property
    def rows(self) -> int:
        """How many there are."""
        return self.images


class ImageFindings(DataFindings):
    """What is found of images, beside what is found of all rows. A broken image is among the `problems`.

    Near-duplicate clusters are by perceptual hash and thumbnail, see modalities/vision/duplicates.py.
    """

    tiny: tuple[int, ...] = ()
    """Rows with a side below 16 pixels."""
    blank: tuple[int, ...] = ()
    """Rows whose image is one plain colour."""
    sizes: dict[str, float] = Field(default_factory=dict)
    """Shorter side in pixels: min, p50, p95, max."""
    licences: dict[str, int] = Field(default_factory=dict)
    """Of rows that name one."""
