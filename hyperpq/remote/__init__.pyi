from .address import is_url as is_url
from .pulling import local_copy as local_copy
from .pulling import pull as pull
from .pushing import Pushed as Pushed
from .pushing import push as push

__all__ = ["Pushed", "is_url", "local_copy", "pull", "push"]
