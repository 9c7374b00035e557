"""RMSNorm, rotary position embedding with the write of keys and values, the gated activation."""
