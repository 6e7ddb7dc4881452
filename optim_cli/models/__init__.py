"""Models: one file each (or a close family), named by `_target_` in configs/model/."""
