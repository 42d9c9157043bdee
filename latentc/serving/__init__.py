"""`latentc serve`: artifacts behind HTTP, by OpenAI's images API, AUTOMATIC1111's and one of jobs.

A request becomes a `drawing.Drawing`, waits in the `queue` as a `queue.Job`, and is drawn by an `engine`: a process of
its own (`drawer`), which a `dispatch.Dispatcher` gives one batch after the other.
"""
