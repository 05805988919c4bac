"""What a key may do. `admin` includes all the others; `train` includes `read`."""

from typing import Literal, get_args

Scope = Literal["infer", "train", "read", "admin"]
"""`infer`: ask models, give feedback. `read`: look at tasks, files, adapters. `train`: change them, and converse.
`admin`: keys, the audit log, and everything else of the project."""
SCOPES: tuple[Scope, ...] = get_args(Scope)
