"""Pure decisions: from typed evidence to a typed decision with its reason. No effects, no IO, no model."""
