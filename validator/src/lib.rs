//! The validator: requests, challenges, judges, scores
