// Stands where the real page loads its visitor monitoring; it measures and sends nothing.
