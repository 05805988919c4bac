"""The table of what was learnt from trials; conventions are those of store/tables.py."""

from datetime import datetime

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from moatelier.contracts import now
from store.tables import Base, Digest


class LedgerRow(Base):
    """What was done about what a task's trials fell short by; `credit`, how likely it helped, comes with the trial."""

    __tablename__ = "ledger"
    __table_args__ = (Index(None, "project_id", "symptom", "action"),)

    project: Mapped[str] = mapped_column("project_id", primary_key=True)
    task: Mapped[str] = mapped_column(primary_key=True)
    trial: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    symptom: Mapped[str]
    confidence: Mapped[float]
    text: Mapped[str]
    ids: Mapped[list[str]]
    level: Mapped[str]
    action: Mapped[str]
    change: Mapped[str]
    spec: Mapped[str] = mapped_column(Digest)
    status: Mapped[str] = mapped_column(default="open")
    measure: Mapped[str] = mapped_column(default="")
    before: Mapped[float | None]
    after: Mapped[float | None]
    credit: Mapped[float | None]
    at: Mapped[datetime] = mapped_column(default=now)
