"""Training: the step, the loop around it, and how a config becomes both.

A researcher forks this room. `step` is one pure function, `loss`, `optimizer`
and a pruner are its arguments, `recipe` says what happens in which step,
`setup` puts the parts together and `loop` runs them. What lands on disk
belongs to `runs`, and which weights go to `pruning`.
"""


def __getattr__(name: str):
  # Imported when used: the steps of a sweep's plan need no loop.
  if name == 'train_model':
    from jax_sparse_pretrain.training.entry import train_model

    return train_model
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


__all__ = ['train_model']  # noqa: F822
