"""What every wing uses: device sizes, whole files, streams of random numbers, progress, provenance.

It knows nothing of rows, models or selection, and imports no other wing.
"""
