"""`fsfast serve`: smoothed features and certificates over the network, whatever speaks HTTP or gRPC."""
