"""What Python holds on to."""

import gc

from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor


def bytes_alive() -> int:
    """Of all tensors, each storage counted once."""
    gc.collect()
    alive = [x for x in gc.get_objects() if issubclass(type(x), Tensor)]
    plain = [x for x in alive if not is_functorch_wrapped_tensor(x)]
    storages = {x.data_ptr(): x.untyped_storage().nbytes() for x in plain}
    return sum(storages.values())
