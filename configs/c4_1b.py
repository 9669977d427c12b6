"""The 1.2B model of the paper on C4, pruned to 50 %.

  python -m jax_sparse_pretrain.train --config=configs/c4_1b.py \\
    --workdir=DIR --config.data.path=TOKENS

Its tokens come from all 1,024 files, 305 GB of C4, once, on any machine:

  hf download allenai/c4 --repo-type=dataset --local-dir=c4 \\
    --include 'en/c4-train.*' \\
    --include 'en/c4-validation.*'
  python -m jax_sparse_pretrain.prepare 'c4/en/c4-train.*' --out=TOKENS \\
    --validation 'c4/en/c4-validation.*' \\
    --train_tokenizer=bpe --vocab_size=32000

The paper's tokenizer is Llama 2's: --tokenizer=tokenizer.model, if you have it.

Add `--plan` to print these numbers and stop:

  Linear parameters    1,139,277,824  N of the dense model
    average              789,374,319  N_avg, 69.3% of dense
    at the end           569,638,912  50.0% of dense
  All parameters       1,204,881,408

  Steps                       72,163
    pruned from               12,500  25.0% of compute
    to                        47,150  75.0% of compute
  Tokens             151,336,779,776  D, 2,097,152 a step
  Compute                  7.168e+20  FLOPs, 6 N_avg D
  H100 hours                   812.0  at 40 % of its peak

Hours are model FLOPs / (40 % of a H100's dense bfloat16 peak of 989e12); on n
of them, divide by n. Pruned weights are stored as zeros: they save none of it.

Hyperparameters are the paper's (arXiv 2501.12486); this is the released run
of 72,200 steps, to within one update period.
"""

from ml_collections import ConfigDict

from jax_sparse_pretrain.config import defaults


def get_config() -> ConfigDict:
  """What differs from the recipe in `jax_sparse_pretrain/config.py`."""
  config = ConfigDict(defaults())
  config.batch_size = 1024  # rows; x 2,048 = 2,097,152 tokens a step
  config.accumulation_steps = 16  # 64 rows at a time: at most 64 devices

  config.model.n_layers = 16
  config.model.d_model = 2048
  config.model.n_heads = 8  # head_dim 256
  config.model.d_ff = 8192  # 4 d_model
  config.model.remat = True  # 16 layers of activations do not fit a chip

  config.mesh.data = 1
  config.mesh.fsdp = -1  # parameters and moments split over all devices

  config.duration.value = 50_000  # dense steps
  config.optimizer.peak_lr = 7.753e-4  # 0.3118 C^-0.125, C the FLOPs
  config.pruning.sparsity = 0.5
  return config
