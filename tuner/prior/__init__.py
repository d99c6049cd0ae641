"""What a configuration will probably measure, before it is deployed: analytic or from measured kernels."""
