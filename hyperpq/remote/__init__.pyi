from .pulling import local_copy as local_copy
from .pulling import pull as pull
from .pushing import Pushed as Pushed
from .pushing import push as push

__all__ = ["Pushed", "local_copy", "pull", "push"]
