<?php
// Asks for the URL in URL with curl or the stream wrapper, with the token as a
// bearer, and prints the answer.
$header = 'Authorization: Bearer ' . getenv('API_KEY');
if ($argv[1] === 'curl') {
    $client = curl_init(getenv('URL'));
    curl_setopt_array($client, [CURLOPT_HTTPHEADER => [$header], CURLOPT_RETURNTRANSFER => true, CURLOPT_FAILONERROR => true]);
    $answer = curl_exec($client);
    if ($answer === false) {
        fwrite(STDERR, curl_error($client));
    }
} else {
    $answer = file_get_contents(getenv('URL'), false, stream_context_create(['http' => ['header' => $header]]));
}
if ($answer === false) {
    exit(1);
}
echo $answer;
