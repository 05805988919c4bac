"""The only place that reads the environment: every setting is `MOATELIER_<NAME>` or a field of `Settings`."""

import os
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from platformdirs import user_cache_dir, user_data_dir
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from moatelier.errors import InvalidRequest
from moatelier.scopes import Scope


class Endpoint(BaseModel):
    """An OpenAI-compatible endpoint that recipes may ask."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s]+$")]
    """With or without the final `/v1`."""
    key: SecretStr | None = None
    key_env: str | None = Field(default=None, min_length=1)
    """The environment variable that holds the key, so that it need not stand among the settings."""
    concurrency: int = Field(default=16, ge=1)
    """Requests under way at once; further ones wait their turn."""
    timeout_s: float = Field(default=120.0, gt=0)
    """Longest silence within an answer."""
    logprobs: bool = True
    """Whether it can be asked for the log probabilities of its tokens."""

    @property
    def secret(self) -> SecretStr | None:
        """The key to send.

        Raises:
            InvalidRequest: The variable that should hold it is not set.
        """
        if self.key_env is None:
            return self.key
        if not (found := os.environ.get(self.key_env)):
            raise InvalidRequest(
                "The environment variable with an upstream's key is not set.",
                where=self.key_env,
                remedy="Set it, or take `key_env` out of MOATELIER_UPSTREAMS.",
            )
        return SecretStr(found)


class Grant(BaseModel):
    """What the bearer of a token may do."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    project: str
    scopes: tuple[Scope, ...]


class Settings(BaseSettings):
    """What a person may set."""

    model_config = SettingsConfigDict(env_prefix="MOATELIER_", frozen=True, extra="ignore", hide_input_in_errors=True)

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
    """The catalogue id of the base that new tasks on texts tune and the engine serves."""
    more_bases: tuple[str, ...] = ()
    """Catalogue ids of further bases for texts that are served, and that a task may choose if they are pulled."""
    vision_base: str = "efficientnet-lite0"
    """The catalogue id of the base that new tasks on images tune and the engine serves."""
    audio_base: str = "whisper-tiny.en"
    """The catalogue id of the base that new tasks on recordings tune and the engine serves."""
    embedding: str = "all-minilm-l6-v2"
    """The catalogue id of the embedding model that `auto` routes by."""
    key: SecretStr | None = None
    """The API key a client sends; default: the one the first start wrote to `home`/keys/admin.key."""
    planner_url: str | None = None
    """An OpenAI-compatible endpoint that may propose plans; none is needed."""
    planner_model: str = "planner"
    planner_key: SecretStr | None = None
    planner_timeout_s: float = 20.0
    frozen_cache_gb: float = 8.0
    """Upper bound for the cache of the frozen layers' outputs."""
    upstreams: dict[str, Endpoint] = Field(default_factory=dict)
    """Endpoints by the names under which recipes ask them."""
    router_explore: float = Field(default=0.0, ge=0, le=1)
    """The share of `auto` requests that feedback may send elsewhere by way of trial."""
    precision: Literal["auto", "bf16", "fp32", "int8", "int4"] = "auto"
    """What the engine computes in, and so what evaluation and gate score; `auto` is what this machine is faster at."""
    engine_memory_gb: float = Field(default=4.0, gt=0)
    """Upper bound for what the engine holds beside the base: running answers, cached prompts, adapters."""
    licences: tuple[str, ...] = ()
    """Licences that a base may have to be chosen by a task, such as Apache-2.0; none allows all."""
    price_per_hour: float | None = Field(default=None, ge=0)
    """What an hour of this machine costs, in whatever money; forecasts then say what a training costs."""
    training_memory_gb: float = Field(default=3.0, gt=0)
    """Upper bound for what a training on the CPU holds beside the base; where activations would take more, they are
    computed twice."""
    training_processes: int = Field(default=1, ge=1)
    """Processes among which a training shares each batch, such as one for each GPU."""
    threads: int = 0
    """CPU threads for torch; 0 takes the cores of the cgroup."""
    log_level: str = "INFO"
    cors_origins: tuple[str, ...] = ()
    """Origins, such as https://chat.example.org, whose pages may call the API from a browser; none by default."""
    proxies: tuple[str, ...] = ()
    """Addresses of proxies that are believed when they say, by X-Forwarded-For and -Proto, who calls."""
    body_mb: float = Field(default=32.0, gt=0)
    """Most megabytes of a JSON body."""
    upload_mb: float = Field(default=2048.0, gt=0)
    """Most megabytes of an upload."""
    body_timeout_s: float = Field(default=30.0, gt=0)
    """A JSON body must be there by then; within an upload it is the longest silence."""
    upload_timeout_s: float = Field(default=1800.0, gt=0)
    """An upload must be there by then."""
    requests_per_minute: int = Field(default=0, ge=0)
    """For each key that has no number of its own; 0 sets no limit."""
    tokens_per_minute: int = Field(default=0, ge=0)
    """The same for the tokens of prompts and answers."""
    wrong_keys_per_minute: int = Field(default=30, ge=1)
    """Wrong keys from one address; beyond that it is answered 429 without a look."""
    storage_gb: float = Field(default=0.0, ge=0)
    """What a project's uploads and adapters may take, for projects without a number of their own; 0 sets no limit."""
    training_hours: float = Field(default=0.0, ge=0)
    """How long such a project may train in 30 days; 0 sets no limit."""
    oidc_issuer: str | None = None
    """An OpenID Connect issuer whose bearer tokens are taken beside keys."""
    oidc_audience: str = "moatelier"
    """What a token must name as its audience."""
    oidc_jwks: str | None = None
    """The issuer's public keys, a URL or a file; default: what the issuer's discovery document names."""
    oidc_claim: str = "groups"
    """The claim, a text or a list of texts, that grants are looked up by."""
    oidc_grants: dict[str, Grant] = Field(default_factory=dict)
    """Value of that claim -> {"project": "...", "scopes": ["infer", "read"]}."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """How log lines are written; `auto` is text on a terminal and JSON elsewhere."""
    otlp_endpoint: str | None = Field(
        default=None, validation_alias=AliasChoices("MOATELIER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    )
    """Where traces are sent by OTLP over HTTP, without the final `/v1/traces`; none sends nothing."""
    in_flight: int = Field(default=256, ge=1)
    """Requests that the API has at the engine at once, open streams among them."""
    queue: int = Field(default=256, ge=0)
    """Requests that wait for one of these places; more are refused with 429."""
    queue_wait_s: float = Field(default=10.0, ge=0)
    """So long a request waits for its place, in the API and again in the engine, before it is refused with 429."""
    feedback_per_day: int = Field(default=1000, ge=1)
    """Answers that one key may judge within a day."""
    keep_texts_days: float = Field(default=0.0, ge=0)
    """How long prompts and answers are kept so that feedback on them can be learnt from; 0 keeps none."""
    watch_days: float = Field(default=30.0, gt=0)
    """How long the numbers about each request are kept."""
    alert_webhook: str | None = Field(default=None, pattern=r"^https?://[^\s]+$")
    """Where alerts are sent by POST, beside the log; none by default."""
    alert_secret: SecretStr | None = None
    """Signs what is sent there: `x-moatelier-signature` is the HMAC-SHA256 of the body in hex."""
    alert_cooldown_s: float = Field(default=3600.0, ge=0)
    """So long a monitor is silent after an alert of it."""
    alerts_per_day: int = Field(default=20, ge=1)
    """Alerts of a project within a day after which its monitors are silent; what they leave out is counted."""
    bench_data: Path | None = None
    fault: str = ""
    """Comma-separated fault points at which a process waits to be killed (moatelier/faults.py); for tests only."""

    @property
    def text_bases(self) -> tuple[str, ...]:
        """The bases for texts that are served, the default first."""
        return tuple(dict.fromkeys((self.base, *self.more_bases)))

    @property
    def bases(self) -> tuple[str, ...]:
        """The bases that are served, those of texts first."""
        return *self.text_bases, self.vision_base, self.audio_base

    @property
    def store_url(self) -> str:
        """The SQLAlchemy URL of the store."""
        return self.database_url or f"sqlite:///{self.home / 'moatelier.db'}"


@cache
def settings() -> Settings:
    """The settings of this process, read once.

    Raises:
        InvalidRequest: A variable cannot be used; neither its value nor a key is told.
    """
    remedy = "docs/guide.md lists the settings."
    try:
        return Settings()
    except SettingsError as error:
        name = next((name for name in Settings.model_fields if f'"{name}"' in str(error)), "")
        where = f"MOATELIER_{name.upper()}" if name else "the environment"
        raise InvalidRequest("The setting is not JSON.", where=where, remedy=remedy) from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False, include_url=False)[0]
        place = [str(part) for part in first["loc"]]
        where = ".".join([f"MOATELIER_{place[0].upper()}", *place[1:]])
        raise InvalidRequest(f"The setting cannot be used: {first['msg']}.", where=where, remedy=remedy) from None
