"""The fused execution: a rule printed as a Triton kernel that updates all tensors in one launch."""
