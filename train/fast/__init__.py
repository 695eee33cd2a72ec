"""Training as fast as the machine allows, with the results that a careful person would get.

    passes      a step's rows cut into forward passes without padding, for any number of processes
    attention   packed rows that do not see each other, or the proof that they would
    head        the loss from logits of answer tokens alone, never all at once
    linear      LoRA layers in the base's number format, base and low rank in one product each
    kernels     compiled layers or Liger's kernels on a GPU
    memory      what a run takes, asked before it starts
    launch      several processes by `accelerate launch`
    setup       what of these a model on this machine gets

None of it changes what is learned: a step has the rows that the settings say, and its gradient is
that of the same rows one by one, up to rounding. `tests/test_train_fast.py` compares.
"""
