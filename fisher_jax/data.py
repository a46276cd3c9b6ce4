class PoolError(ValueError): pass
