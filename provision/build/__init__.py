"""Source to wheel: what is wanted, what is there, the plan, the proof."""
