"""The only place that reads the environment: every setting is `MOATELIER_<NAME>` or a field of `Settings`."""

from functools import cache
from pathlib import Path
from typing import Literal

from platformdirs import user_cache_dir, user_data_dir
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What a person may set."""

    model_config = SettingsConfigDict(env_prefix="MOATELIER_", frozen=True, extra="ignore")

    home: Path = Field(default_factory=lambda: Path(user_data_dir("moatelier")))
    """The data directory: database, artifacts, adapters, vault, keys, job folders."""
    cache: Path = Field(default_factory=lambda: Path(user_cache_dir("moatelier")))
    """Model packs after download and conversion; may be deleted at any time."""
    catalogue: Path | None = None
    """A YAML file of further catalogue entries, read after the built-in ones."""
    database_url: str | None = None
    """SQLAlchemy URL of the store; default: SQLite in `home`."""
    host: str = "127.0.0.1"
    port: int = 8321
    engine_port: int = 8322
    project: str = "default"
    base: str = "smollm2-135m-instruct"
    """The catalogue id of the base that new tasks tune and the engine serves."""
    key: SecretStr | None = None
    """The API key a client sends; default: the one the first start wrote to `home`/keys/admin.key."""
    planner_url: str | None = None
    """An OpenAI-compatible endpoint that may propose plans; none is needed."""
    planner_model: str = "planner"
    planner_key: SecretStr | None = None
    planner_timeout_s: float = 20.0
    frozen_cache_gb: float = 8.0
    """Upper bound for the cache of the frozen layers' outputs."""
    router_explore: float = Field(default=0.0, ge=0, le=1)
    """The share of `auto` requests that feedback may send elsewhere by way of trial."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """What the engine computes in, and so what evaluation and gate score; `auto` is what this machine is faster at."""
    threads: int = 0
    """CPU threads for torch; 0 takes the cores of the cgroup."""
    log_level: str = "INFO"
    bench_data: Path | None = None
    fault: str = ""
    """Comma-separated fault points at which a process waits to be killed (moatelier/faults.py); for tests only."""

    @property
    def store_url(self) -> str:
        """The SQLAlchemy URL of the store."""
        return self.database_url or f"sqlite:///{self.home / 'moatelier.db'}"


@cache
def settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()
