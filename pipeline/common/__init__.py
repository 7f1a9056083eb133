"""What every zone may use: settings, errors, measures, progress, the machine."""
