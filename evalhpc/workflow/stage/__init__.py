"""What compute nodes without internet need, fetched beforehand."""
