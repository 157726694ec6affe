"""The registry (to be completed): name -> factory."""

BELONGS_TO = "bitrelax"
_FACTORIES = {}


def register(name):
    def keep(factory):
        _FACTORIES[name] = factory
        return factory

    return keep
